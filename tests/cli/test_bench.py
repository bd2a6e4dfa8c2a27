"""`autogaze bench encode` and `autogaze bench fidelity` from the command line."""

import builtins
import json

import pytest
from typer.testing import CliRunner, Result

from autogaze.cli.app import app
from tests.clips import make_video
from tests.evaluation import tiny


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])


def fails(*arguments: object) -> str:
    """What is said on stderr by a command that refuses its input."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.saved(folder / "encoder")
    for name in ("one", "two"):
        make_video(folder / f"{name}.mp4")
    return folder


def test_encode(files, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = run(
        *("encode", "--video", files / "one.mp4", "--encoder", files / "encoder"),
        *("--selector", "run-length", "--fps", 5, "--resolution", 64, "--frames", 4),
        *("--repeats", 1, "--scaling", "--json", out, "--plot", plot),
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for words in ("run-length", "random", "centre", "GFLOP", "against dense", "time / dense"):
        assert words in result.stdout
    values = json.loads(out.read_text())
    (cell,) = values["encoders"][0]["cells"]
    assert [row["selector"] for row in cell["gazed"]] == ["run-length", "random", "centre"]
    assert len(values["scaling"][0]["rows"]) == 20
    assert values["memory_case"] == []
    assert values["hardware"]
    assert plot.stat().st_size > 10_000


def test_fidelity(files, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = run(
        *("fidelity", files / "one.mp4", files / "two.mp4", "--encoder", files / "encoder"),
        *("--selector", "change", "--ratio", 0.2, "--clips", 1, "--json", out, "--plot", plot),
    )
    assert result.exit_code == 0, result.output
    assert "RANDOM" not in result.stdout  # a checkpoint's weights are taken for trained ones
    values = json.loads(out.read_text())
    assert [row["selector"] for row in values["rows"]] == ["change", "random", "centre"]
    assert values["rows"][0]["clip_cosine"]["low"] is not None
    assert plot.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoder", "resnet"], "siglip2-base-patch16-224"),
        (["--selector", "oracle"], "oracle"),
        (["--ratio", "1.5"], "1.5"),
        (["--fps", "0"], "fps"),
        (["--fps", "nan"], "fps"),
        (["--resolution", "0"], "resolution"),
        (["--video", "nowhere.mp4"], "nowhere.mp4"),
        (["--device", "toaster"], "toaster"),
        (["--dtype", "float8"], "float8"),
        (["--plot", "plot.jpg"], ".png"),
        (["--json", "no/such/folder/out.json"], "no/such/folder"),
        (["--no-grid"], "--scaling"),
    ],
)
def test_encode_refuses(files, words, said):
    video = [] if "--video" in words else ["--video", files / "one.mp4"]
    assert said in fails("encode", *video, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoder", "resnet"], "resnet"),
        (["--selector", "oracle"], "oracle"),
        (["--ratio", "0"], "ratio"),
        (["--plot", "plot.gif"], ".png"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_fidelity_refuses(files, words, said):
    videos = [] if words == ["nowhere.mp4"] else [files / "one.mp4"]
    assert said in fails("fidelity", *videos, *words)


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(files, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for command in (["encode", "--video"], ["fidelity"]):
        said = fails(*command, files / "one.mp4", "--plot", files / "plot.png")
        assert "autogaze[plot]" in said


def test_without_the_sample_video_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr("autogaze.evaluation.passes.find_spec", lambda name: None)
    for command in ("encode", "fidelity"):
        assert "scikit-video" in fails(command)
