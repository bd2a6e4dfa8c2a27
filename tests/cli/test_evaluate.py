"""`autogaze eval hlvid`, as it is called, with a model that answers without looking."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import fails, run
from tests.evaluation.answers.material import rows, write_set

ANSWERER = """
from tests.evaluation.answers.material import FakeAnswerer

def load_answerer(model, options):
    assert options.frames in (None, 8)
    if model == "broken":
        raise RuntimeError("no such thing")
    def answerer(condition, max_new_tokens=16):
        return FakeAnswerer(condition, broken=["clip_2.mp4"] if model == "picky" else ())
    return answerer
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch) -> list[str]:
    """Options of a run on a set of 12 videos."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", rows(12, 2))
    Path("own.py").write_text(ANSWERER)
    return [
        "eval",
        "hlvid",
        "--data",
        "set",
        "--model",
        "fake",
        "--answerer",
        "own.py",
        "--out",
        "out",
    ]


def test_a_run_and_its_files(words: list[str]) -> None:
    result = run(*words, "--selector", "greedy", "--ratio", 0.1, "--ratio", 0.3, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [row["name"] for row in report["conditions"]] == [
        "dense",
        *(f"{name} {budget} %" for budget in (10, 30) for name in ("greedy", "random", "centre", "uniform")),
    ]  # fmt: skip
    assert report["questions"] == 24
    assert report["settings"]["model"] == "fake"
    assert "autogaze" in report["sessions"][0]
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"answers", "report.json", "report.md", "accuracy.png", "seconds.png"}
    assert len(list(Path("out/answers").iterdir())) == 9
    whole = json.loads(Path("out/report.json").read_text())
    assert len(whole["answers"]["greedy 10 %"]) == 24


def test_what_is_answered_is_not_asked_again(words: list[str]) -> None:
    """The second run cannot load its model, and needs none; more conditions join the report."""
    assert run(*words, "--no-plot", "--no-controls").exit_code == 0
    before = {path: path.read_bytes() for path in Path("out/answers").iterdir()}
    assert len(before) == 2
    first = Path("out/report.md").read_text()
    Path("out/report.md").unlink()
    own = Path("own.py").read_text()
    Path("own.py").write_text("raise RuntimeError")
    assert run(*words, "--no-plot", "--no-controls").exit_code == 0
    assert Path("out/report.md").read_text() == first
    Path("own.py").write_text(own)
    assert run(*words, "--no-plot", "--no-controls", "--selector", "change").exit_code == 0
    assert "change 10 %" in Path("out/report.md").read_text()
    assert "greedy 10 %" in Path("out/report.md").read_text()
    assert {path: path.read_bytes() for path in before} == before
    assert not Path("out/accuracy.png").exists()


def test_part_of_a_set_first(words: list[str]) -> None:
    assert run(*words, "--no-plot", "--no-controls", "--questions", 10).exit_code == 0
    lines = Path("out/answers/dense.jsonl").read_text().splitlines()
    assert sum("question_id" in line for line in lines) == 10
    result = run(*words, "--no-plot", "--no-controls", "--json")
    assert len(json.loads(result.stdout)["compared"]) == 24
    assert Path("out/answers/dense.jsonl").read_text().startswith("\n".join(lines))


def test_missing_and_broken_videos_are_told(words: list[str]) -> None:
    Path("set/videos/clip_1.mp4").unlink()
    words[words.index("fake")] = "picky"
    result = run(*words, "--no-plot", "--no-controls", "--json")
    assert result.exit_code == 1
    assert "clip_1.mp4" in result.stderr
    assert "question 200" in result.stderr
    assert result.stderr.count("nothing in it") == 1
    report = json.loads(result.stdout)
    assert len(report["compared"]) == 20
    assert report["missing_videos"] == ["clip_1.mp4"]


def test_other_settings_in_the_folder_are_refused(words: list[str]) -> None:
    assert run(*words, "--no-plot", "--no-controls").exit_code == 0
    message = fails(*words, "--no-plot", "--no-controls", "--frames", 8)
    assert "frames None, not 8" in message
    assert "out/answers/dense.jsonl" in message
    # The number of tokens is the same on any device.
    assert run(*words, "--no-plot", "--no-controls", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--selector", "nonsense"], ("nonsense", "greedy")),
        (["--ratio", 0], ("0",)),
        (["--ratio", 1.5], ("1.5",)),
        (["--data", "nowhere"], ("nowhere",)),
        (["--videos", "nowhere"], ("nowhere",)),
        (["--out", "no/out"], ("no/out",)),
        (["--out", "own.py"], ("own.py", "file")),
        (["--answerer", "none.py"], ("none.py",)),
        (["--answerer", "set/data/test.jsonl"], ("test.jsonl", ".py")),
        (["--dtype", "int3"], ("int3",)),
        (["--device", "tpu"], ("tpu",)),
        (["--max-vision-tokens", 0], ("--max-vision-tokens",)),
        (["--units", "nonsense"], ("nonsense",)),
    ],
)
def test_bad_input(words: list[str], more: list[object], named: tuple[str, ...]) -> None:
    message = fails(*words, "--no-plot", *more)
    assert all(part in message for part in named), message


def test_a_file_that_loads_nothing(words: list[str]) -> None:
    Path("own.py").write_text("load_answer = 1")
    assert "load_answerer" in fails(*words, "--no-plot")
    Path("own.py").write_text("1 / 0")
    assert "ZeroDivisionError" in fails(*words, "--no-plot")


def test_budgets_in_tokens(words: list[str]) -> None:
    result = run(*words, "--no-plot", "--no-dense", "--max-vision-tokens", 500, "--json")
    assert result.exit_code == 0, result.output
    names = [row["name"] for row in json.loads(result.stdout)["conditions"]]
    assert names == [f"{name} 500 tokens" for name in ("greedy", "random", "centre", "uniform")]


def test_answers_of_another_precision_or_decoder_are_not_these(words: list[str]) -> None:
    few = (*words, "--no-plot", "--no-controls", "--no-dense")
    assert run(*few).exit_code == 0
    for option, value in (("--dtype", "bfloat16"), ("--decoder", "pyav")):
        message = fails(*few, option, value)
        assert option.removeprefix("--") in message
        assert value in message
    report = json.loads(Path("out/report.json").read_text())
    assert report["settings"]["dtype"] == "float32"
