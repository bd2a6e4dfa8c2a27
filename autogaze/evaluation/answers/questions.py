"""Sets of multiple-choice questions about videos, in the form of HLVid.

A set is a table with the columns `video_path`, `question` (the options are inside, "A." to "D.")
and `answer` (a letter), and perhaps `question_id` and `category`, as Parquet, JSON lines or CSV.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autogaze.checks import as_path, describe_value, whole
from autogaze.errors import EvaluationError, MissingExtraError, first_line

LETTERS = "ABCD"
"""The options' letters."""
REQUIRED = ("video_path", "question", "answer")
OPTIONAL = ("question_id", "category")
SUFFIXES = (".parquet", ".jsonl", ".csv")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """A question about a video, with four options.

    Attributes:
        id: its `question_id` in the set; where there is none, the number of its row, from 1.
        video_path: the video as the set names it.
        text: the question with its options, as it is.
        answer: the right option's letter, A to D.
        category: None where the set has none.
        video: the file; None if it is missing.
    """

    id: str
    video_path: str
    text: str
    answer: str
    category: str | None = None
    video: Path | None = None


@dataclass(frozen=True)
class QuestionSet:
    """A set of questions, with its videos found.

    Attributes:
        name: of the file or folder.
        questions: in the set's order.
        fingerprint: of all that the set says: another text, answer or order has another one.
    """

    name: str
    questions: tuple[Question, ...]
    fingerprint: str

    @property
    def missing(self) -> tuple[str, ...]:
        """Videos that are not there, each once, as the set names them."""
        return tuple(dict.fromkeys(q.video_path for q in self.questions if q.video is None))

    def first(self, count: int) -> "QuestionSet":
        """Only the first `count` questions, of the same set."""
        return QuestionSet(self.name, self.questions[:count], self.fingerprint)


def load_questions(data: str | Path, videos: str | Path | None = None) -> QuestionSet:
    """Read a set, and look for its videos.

    Args:
        data: a .parquet, .jsonl or .csv file, or a folder that holds one (Parquet in several
            parts counts as one), in itself or in its folder `data`.
        videos: folder in which the videos are; by default that of the set. A video is looked for
            at `video_path`, at `videos/video_path`, then by its file's name anywhere below.

    Raises:
        EvaluationError: no such set; it is empty or lacks columns; or a row has no question, no
            letter A to D as its answer, or the id of another one.
        MissingExtraError: the set is Parquet and pyarrow is not installed.
    """
    path = as_path(data, EvaluationError)
    files, root = _find_files(path)
    if videos is not None:
        root = as_path(videos, EvaluationError)
        if not root.is_dir():
            raise EvaluationError(f"{root}: there is no such folder of videos")
    rows = [
        (f"{file}: row {number}", row)
        for file in files
        for number, row in enumerate(_read(file), 1)
    ]
    if not rows:
        raise EvaluationError(f"{path}: holds no questions")
    finder = VideoFinder(root)
    questions: dict[str, Question] = {}
    for number, (where, row) in enumerate(rows, 1):
        question = _question(row, number, where, finder)
        if question.id in questions:
            raise EvaluationError(
                f"{where}: question_id {question.id!r} is there twice; every question "
                "needs an id of its own (or leave the column out)"
            )
        questions[question.id] = question
    return QuestionSet(path.resolve().name, tuple(questions.values()), _fingerprint(questions))


def _fingerprint(questions: Mapping[str, Question]) -> str:
    said = [[q.id, q.video_path, q.text, q.answer, q.category] for q in questions.values()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _find_files(path: Path) -> tuple[list[Path], Path]:
    """The files of a set, and the folder that its videos are below."""
    if os.path.isfile(path):
        if path.suffix.lower() not in SUFFIXES:
            raise EvaluationError(
                f"{path}: a set of questions is a {', '.join(SUFFIXES)} file, or a folder with one"
            )
        folder = path.absolute().parent
        return [path], folder.parent if folder.name == "data" else folder
    if not os.path.isdir(path):
        raise EvaluationError(f"{path}: there is no such file or folder of questions")
    for folder in (path / "data", path):
        found = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        sets = {file.name.rpartition("-of-")[0].rpartition("-")[0] or file.name for file in found}
        if len(sets) > 1:
            raise EvaluationError(
                f"{folder}: holds several sets of questions ({', '.join(f.name for f in found)}); "
                "name the one that is meant"
            )
        if found:
            return found, path
    raise EvaluationError(
        f"{path}: holds no set of questions ({', '.join(SUFFIXES)}), nor does its folder data"
    )


def _read(file: Path) -> list[Row]:
    """The rows of a file, which has all required columns.

    Raises:
        EvaluationError: it cannot be read, or lacks columns.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".csv": _read_csv}
    try:
        rows, columns = readers[file.suffix.lower()](file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{file}: cannot be read: {first_line(error)}") from error
    lacking = [name for name in REQUIRED if name not in columns] if rows else []
    if lacking:
        raise EvaluationError(
            f"{file}: lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}; a set of "
            f"questions has {', '.join(REQUIRED)}, and perhaps {' and '.join(OPTIONAL)}; this one "
            f"has {', '.join(map(str, columns)) or 'none'}"
        )
    return rows


def _read_parquet(file: Path) -> tuple[list[Row], Sequence[str]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "eval", f"{file}: reading Parquet") from None
    try:
        with parquet.ParquetFile(file) as opened:
            names = list(opened.schema_arrow.names)
            # Only these columns: a set may carry its videos as bytes.
            table = opened.read(columns=[n for n in (*REQUIRED, *OPTIONAL) if n in names])
    except pyarrow.ArrowException as error:
        raise EvaluationError(f"{file}: cannot be read as Parquet: {first_line(error)}") from error
    return table.to_pylist(), names


def _read_json_lines(file: Path) -> tuple[list[Row], Sequence[str]]:
    rows: list[Row] = []
    for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(
                f"{file}: line {number} is no JSON: {first_line(error)}"
            ) from error
        if not isinstance(row, dict):
            raise EvaluationError(
                f"{file}: line {number} must be a JSON object, got {describe_value(row)}"
            )
        rows.append(row)
    # A column that only some rows have is told row by row.
    return rows, list(dict.fromkeys(name for row in rows for name in row))


def _read_csv(file: Path) -> tuple[list[Row], Sequence[str]]:
    text = io.StringIO(file.read_text("utf-8-sig"), newline="")
    reader = csv.DictReader(text, strict=True)
    return list(reader), list(reader.fieldnames or ())


def _question(row: Row, number: int, where: str, finder: "VideoFinder") -> Question:
    """The question of a row.

    Args:
        number: of the row in the whole set, from 1: its id where it has none.
        where: file and row, for errors.
    """
    texts = {}
    for name in REQUIRED:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            raise EvaluationError(f"{where}: {name} must be text, got {describe_value(value)}")
        texts[name] = value
    answer = texts["answer"].strip().upper()
    if len(answer) != 1 or answer not in LETTERS:
        raise EvaluationError(
            f"{where}: answer must be one of {', '.join(LETTERS)}, got {describe_value(texts['answer'])}"
        )
    category = row.get("category")
    try:
        video = finder.find(texts["video_path"])
    except EvaluationError as error:
        raise EvaluationError(f"{where}: {error}") from error
    return Question(
        id=question_id(row, number, where),
        video_path=texts["video_path"],
        text=texts["question"],
        answer=answer,
        category=None if category in (None, "") else str(category),
        video=video,
    )


def question_id(row: Row, number: int, where: str) -> str:
    """A row's `question_id` as text; without one, the row's number, from 1.

    Raises:
        EvaluationError: it is neither a whole number nor text; the message begins with `where`.
    """
    value = row.get("question_id")
    if value in (None, ""):
        return str(number)
    if (integer := whole(value)) is not None:
        return str(integer)
    if isinstance(value, str):
        return value
    raise EvaluationError(
        f"{where}: question_id must be a whole number or text, got {describe_value(value)}"
    )


class VideoFinder:
    """Finds the videos of a set below a folder, whose files are listed once and only if needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, list[Path]] | None = None

    def find(self, video_path: str) -> Path | None:
        """The file of a video; None if it is missing.

        Raises:
            EvaluationError: files of this name lie in several folders.
        """
        path = as_path(video_path, EvaluationError)
        for candidate in (self.root / path, self.root / "videos" / path):
            if os.path.isfile(candidate):
                return candidate
        if self._names is None:
            self._names = {}
            for file in _files_below(self.root):
                self._names.setdefault(file.name, []).append(file)
        found = self._names.get(path.name, [])
        if len(found) > 1:
            raise EvaluationError(
                f"{video_path}: there is no such file in {self.root}, and several of this name below: "
                f"{', '.join(map(str, found[:4]))}; remove or rename all but one"
            )
        return found[0] if found else None


def _files_below(root: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, each folder is visited once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            yield Path(folder, name)
