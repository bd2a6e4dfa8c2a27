"""Sets of questions in every format, videos found and missing, and sets that cannot be used."""

import builtins
import csv
import json
from pathlib import Path

import pytest

from autogaze.errors import EvaluationError, MissingExtraError
from autogaze.evaluation.answers.questions import QuestionSet, load_questions
from tests.evaluation.answers.material import load_set, rows, write_set


def write_csv(path: Path, lines: list[dict[str, object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def texts(found: QuestionSet) -> list[tuple[object, ...]]:
    return [(q.id, q.video_path, q.text, q.answer, q.category) for q in found.questions]


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    lines = rows()
    folder = write_set(tmp_path / "set", lines)
    from_json = load_questions(folder)
    assert [q.id for q in from_json.questions] == [str(line["question_id"]) for line in lines]
    assert from_json.questions[0].text == lines[0]["question"]
    assert [q.answer for q in from_json.questions] == [line["answer"] for line in lines]
    assert from_json.missing == ()
    from_csv = load_questions(write_csv(tmp_path / "set" / "set.csv", lines))
    assert texts(from_csv) == texts(from_json)
    assert from_csv.fingerprint == from_json.fingerprint
    assert [q.video for q in from_csv.questions] == [q.video for q in from_json.questions]


def test_parquet_and_its_parts(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra eval is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = rows()
    folder = write_set(tmp_path, lines)
    (folder / "data" / "test.jsonl").rename(folder / "other.jsonl")
    expected = load_questions(folder / "other.jsonl")
    for part in range(2):
        table = pyarrow.Table.from_pylist(lines[6 * part : 6 * part + 6])
        parquet.write_table(table, folder / "data" / f"test-0000{part}-of-00002.parquet")
    assert texts(load_questions(folder)) == texts(expected)
    one = load_questions(folder / "data" / "test-00000-of-00002.parquet")
    assert texts(one) == texts(expected)[:6]
    assert one.missing == ()
    (folder / "data" / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(EvaluationError, match=r"bad\.parquet"):
        load_questions(folder / "data" / "bad.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    really = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"autogaze\[eval\]"):
        load_questions(tmp_path / "set.parquet")


def test_ids_and_categories_may_be_left_out(tmp_path: Path) -> None:
    lines = [
        {k: v for k, v in line.items() if k not in ("question_id", "category")} for line in rows()
    ]
    found = load_set(tmp_path, lines)
    assert [q.id for q in found.questions] == [str(n) for n in range(1, len(lines) + 1)]
    assert {q.category for q in found.questions} == {None}
    assert found.first(2).questions == found.questions[:2]
    assert found.first(2).fingerprint == found.fingerprint


def test_the_fingerprint_is_of_all_that_is_said(tmp_path: Path) -> None:
    lines = rows()
    prints = {load_set(tmp_path, lines).fingerprint}
    for name, value in {
        "answer": "D",
        "question": "?",
        "category": "x",
        "question_id": 999,
    }.items():
        prints.add(load_set(tmp_path, [{**lines[0], name: value}, *lines[1:]]).fingerprint)
    prints.add(load_set(tmp_path, lines[::-1]).fingerprint)
    assert len(prints) == 6


def test_where_videos_are_looked_for(tmp_path: Path) -> None:
    line = rows(1, 1)[0]
    names = ("beside.mp4", "in/folders.mp4", "below.mp4", "linked.mp4", "none.mp4")
    lines = [{**line, "question_id": n, "video_path": name} for n, name in enumerate(names)]
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "set.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    places = ["beside.mp4", "videos/in/folders.mp4", "videos/deep/er/below.mp4"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.mp4").touch()
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path)
    (tmp_path / "videos" / "disk").symlink_to(tmp_path / "elsewhere")
    for data in (tmp_path, file):
        found = load_questions(data)
        assert [q.video for q in found.questions[:3]] == [tmp_path / place for place in places]
        assert found.questions[3].video.samefile(tmp_path / "elsewhere" / "linked.mp4")
        assert found.missing == ("none.mp4",)
    elsewhere = load_questions(file, tmp_path / "videos" / "deep")
    assert [q.video is None for q in elsewhere.questions] == [True, True, False, True, True]
    (tmp_path / "videos" / "below.mp4").touch()
    assert load_questions(file).questions[2].video == tmp_path / "videos" / "below.mp4"
    (tmp_path / "videos" / "deep" / "none.mp4").touch()
    (tmp_path / "elsewhere" / "none.mp4").touch()
    with pytest.raises(EvaluationError, match=r"none\.mp4.*deep"):
        load_questions(file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": "E"}, ("row 2", "'E'", "A, B, C, D")),
        ({"answer": "AB"}, ("row 2", "'AB'")),
        ({"answer": ""}, ("row 2", "answer")),
        ({"answer": 1}, ("row 2", "answer", "1")),
        ({"question": None}, ("row 2", "question")),
        ({"question": "  "}, ("row 2", "question")),
        ({"video_path": 3}, ("row 2", "video_path", "3")),
        ({"video_path": "a\0.mp4"}, ("null",)),
        ({"question_id": 0}, ("row 2", "'0'", "twice")),
        ({"question_id": 1.5}, ("row 2", "1.5")),
        ({"question_id": [1]}, ("row 2", "[1]")),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict[str, object], named: tuple[str, ...]) -> None:
    lines = rows(1, 3)
    write_set(tmp_path)
    changed = [lines[0], {**lines[1], **change}, lines[2]]
    file = tmp_path / "data" / "test.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(EvaluationError) as error:
        load_questions(tmp_path)
    assert all(part in str(error.value) for part in named), error.value


def test_small_letters_and_blanks_of_answers_are_taken(tmp_path: Path) -> None:
    line = {**rows(1, 1)[0], "answer": " b\n"}
    assert load_set(tmp_path, [line]).questions[0].answer == "B"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.jsonl", "", ("no questions",)),
        ("a.csv", "", ("no questions",)),
        ("a.csv", "video_path,question,answer\n", ("no questions",)),
        ("a.csv", "video_path,text,answer\nv,q,A\n", ("question", "text")),
        ("a.csv", 'video_path,question,answer\nv,"q,A\n', ("cannot be read",)),
        ("a.jsonl", '{"video": 1}\n', ("video_path, question, answer", "video")),
        ("a.jsonl", "[1]\n", ("line 1", "[1]")),
        ("a.jsonl", "\n{\n", ("line 2",)),
        ("a.jsonl", b"\xff\xfe", ("cannot be read",)),
        ("a.txt", "", (".parquet, .jsonl, .csv",)),
        ("a.json", "[]", (".jsonl",)),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, named: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError) as error:
        load_questions(path)
    assert all(part in str(error.value) for part in (name, *named)), error.value


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere"):
        load_questions(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="no set"):
        load_questions(tmp_path)
    folder = write_set(tmp_path)
    (folder / "data" / "other.csv").touch()
    with pytest.raises(EvaluationError, match=r"other\.csv, test\.jsonl"):
        load_questions(folder)
    with pytest.raises(EvaluationError, match="nowhere"):
        load_questions(folder / "data" / "test.jsonl", folder / "nowhere")
