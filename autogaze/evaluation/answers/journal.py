"""Answers under one condition as a file: a line per question, on the disk before the next begins.

The first line has the settings. Every answer carries a hash of them, so that no answers of other
settings are mixed in. A line with the session (hardware, versions) stands before its answers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autogaze.checks import is_finite, whole
from autogaze.errors import AutoGazeError, EvaluationError, first_line
from autogaze.evaluation.answers.answering import Answer, Condition, StageSeconds
from autogaze.evaluation.answers.questions import Question
from autogaze.utils.journal import Entry, Journal, difference, read_journal

_COUNTS = ("prompt_tokens", "dense_prompt_tokens", "kept_units", "dense_units", "peak_memory")

Settings = Mapping[str, Any]
"""All that answers depend on, besides the condition, as JSON."""


def settings_hash(settings: Settings, condition: Condition) -> str:
    """Of the settings and the condition: answers of equal hashes belong together."""
    said = json.dumps({**settings, "condition": asdict(condition)}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Run:
    """The answers under one condition.

    Attributes:
        answers: question's id -> answer.
        sessions: hardware and versions with which they were made, each once.
    """

    condition: Condition
    answers: Mapping[str, Answer]
    sessions: tuple[Mapping[str, str], ...] = ()


class AnswerJournal:
    """The file of the answers under one condition, a context manager; goes on where it was killed.

    Args:
        folder: of all conditions' files.

    Attributes:
        answers: question's id -> answer.

    Raises:
        EvaluationError: the file is of other settings, or damaged.
        OutputError: it cannot be written, or another process is writing it.
    """

    def __init__(self, folder: Path, condition: Condition, settings: Settings) -> None:
        self.condition = condition
        self.path = folder / condition.file_name
        self.answers: dict[str, Answer] = {}
        self._head = {"condition": asdict(condition), "settings": dict(settings)}
        self._hash = settings_hash(settings, condition)
        self._session: Mapping[str, str] | None = None
        self._journal = Journal(self.path, "answering under this condition", EvaluationError)

    def __enter__(self) -> "AnswerJournal":
        self._journal.__enter__()
        try:
            if self._journal.entries:
                begun = _head(self.path, self._journal.entries)
                _check_settings(self.path, begun, self._head)
                self.answers = _answers(self.path, self._journal.entries, self._hash)
            else:
                self._journal.write(self._head)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def begin_session(self, session: Mapping[str, str]) -> None:
        """Say with which hardware and versions the answers that follow are made."""
        self._journal.write({"session": dict(session)})

    def add(self, question: Question, answer: Answer) -> None:
        """Write an answer to the disk."""
        self._journal.write(
            {"question_id": question.id, "settings_hash": self._hash, **asdict(answer)}
        )
        self.answers[question.id] = answer


def read_run(path: Path) -> tuple[Run, Settings]:
    """The answers in a file, which may still be growing, and their settings.

    Raises:
        EvaluationError: no such file, or it is damaged.
    """
    try:
        entries, _ = read_journal(path, EvaluationError)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}") from error
    head = _head(path, entries)
    try:
        condition = Condition(**head["condition"])
    except (TypeError, AutoGazeError) as error:
        raise EvaluationError(f"{path}: its condition is damaged: {first_line(error)}") from error
    answers = _answers(path, entries, settings_hash(head["settings"], condition))
    sessions = {
        json.dumps(e["session"], sort_keys=True): e["session"] for e in entries if "session" in e
    }
    return Run(condition, answers, tuple(sessions.values())), head["settings"]


def _head(path: Path, entries: Sequence[Entry]) -> Entry:
    head = entries[0] if entries else {}
    if not (isinstance(head.get("settings"), dict) and isinstance(head.get("condition"), dict)):
        raise EvaluationError(
            f"{path}: its first line does not hold the settings of its answers; remove the file to "
            "answer anew"
        )
    return head


def _check_settings(path: Path, begun: Entry, now: Entry) -> None:
    for part in ("condition", "settings"):
        wanted = json.loads(json.dumps(now[part]))
        if begun[part] != wanted:
            raise EvaluationError(
                f"{path}: holds answers with {difference(begun[part], wanted)}; give the same "
                "options, another --out, or remove that file to answer anew"
            )


def _answers(path: Path, entries: Sequence[Entry], hash_: str) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for number, entry in enumerate(entries, 1):
        if "question_id" not in entry:
            continue
        key = entry["question_id"]
        try:
            answer = _answer(entry)
        except (KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}: line {number} is no answer: {first_line(error)}; remove the line to answer "
                "that question anew"
            ) from error
        if entry.get("settings_hash") != hash_:
            raise EvaluationError(
                f"{path}: line {number} is an answer of settings {entry.get('settings_hash')}, the "
                f"file's are {hash_}; remove the lines that came from elsewhere"
            )
        if key in answers:
            raise EvaluationError(
                f"{path}: line {number} answers question {key!r} a second time; remove one of the two"
            )
        answers[key] = answer
    return answers


def _answer(entry: Entry) -> Answer:
    """The answer of a line; raises KeyError or TypeError where it is none."""
    if not isinstance(entry["text"], str) or not isinstance(entry["question_id"], str):
        raise TypeError("its text or id is no text")
    seconds = entry["seconds"]
    if not isinstance(seconds, dict) or not all(map(is_finite, seconds.values())):
        raise TypeError("its seconds are no numbers by stage")
    counts = {name: entry[name] for name in _COUNTS}
    needed = ("prompt_tokens", "dense_prompt_tokens")
    if any((n is not None or k in needed) and whole(n) is None for k, n in counts.items()):
        raise TypeError("its counts are no whole numbers")
    counts = {name: None if n is None else whole(n) for name, n in counts.items()}
    size = entry.get("frame_size")  # which older files do not have
    if size is not None:
        sides = [whole(side) for side in size] if isinstance(size, list) else []
        if len(sides) != 2 or None in sides:
            raise TypeError("its frame_size is no width and height")
        size = tuple(sides)
    return Answer(entry["text"], seconds=StageSeconds(**seconds), frame_size=size, **counts)
