"""A run over questions, and its files of answers: what a kill left there is not asked again.

Every condition has a file with a line per question, on the disk before the next begins. The first
line has the settings. Every answer carries a hash of them, so that no answers of other settings are
mixed in. A line with the session (hardware, versions) stands before its answers.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autogaze.checks import is_finite, whole
from autogaze.errors import AutoGazeError, EvaluationError, VideoError, first_line
from autogaze.evaluation.answers.answering import Answer, Answerer, Condition, StageSeconds
from autogaze.evaluation.answers.questions import Question, QuestionSet
from autogaze.utils.journal import Entry, Journal, difference, read_journal
from autogaze.utils.progress import silent

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


GIVE_UP = 3
"""Errors in a row, with nothing answered yet, after which a run stops: all others would fail too."""


@dataclass(frozen=True)
class Failure:
    """A question that could not be answered under a condition, and why."""

    question: Question
    cause: str


@dataclass(frozen=True)
class FailureGroup:
    """Questions that could not be answered under the same conditions, for one cause.

    Attributes:
        questions: their ids.
        conditions: names.
    """

    cause: str
    questions: tuple[str, ...]
    conditions: tuple[str, ...]

    def where(self, conditions: int) -> str:
        """The conditions in words, of so many in all."""
        if len(self.conditions) == conditions > 1:
            return f"all {conditions} conditions"
        return ", ".join(self.conditions)

    @property
    def told(self) -> str:
        """The first question, the cause, and the other questions."""
        first, *others = self.questions
        also = f" (also {', '.join(others)})" if others else ""
        return f"{first}: {self.cause}{also}"


def group_failures(failures: Mapping[str, Sequence[Failure]]) -> list[FailureGroup]:
    """What could not be answered, every cause once, in the order in which they came."""
    under: dict[tuple[str, str], list[str]] = {}
    for name, failed in failures.items():
        for one in failed:
            under.setdefault((one.cause, one.question.id), []).append(name)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (cause, question), names in under.items():
        groups.setdefault((cause, tuple(names)), []).append(question)
    return [FailureGroup(cause, tuple(ids), names) for (cause, names), ids in groups.items()]


def evaluate(
    questions: QuestionSet,
    conditions: Sequence[Condition],
    answerer: Callable[[Condition], Answerer],
    folder: Path,
    settings: Settings,
    session: Callable[[], Mapping[str, str]],
    step: Callable[[], object] = silent,
) -> dict[str, list[Failure]]:
    """Answer all questions under all conditions, a file per condition; goes on where it was killed.

    Args:
        answerer: makes the model under a condition; called only if there is something to answer.
        folder: of the files, made if it is not there (its parent is).
        settings: all that answers depend on, as JSON; `complete_settings` adds the set's.
        session: hardware and versions, called when the first question is answered.
        step: called after every question of every condition.

    Returns:
        Condition's name -> what could not be answered.

    Raises:
        EvaluationError: the folder holds answers of other settings; no video is there; nothing
            can be answered under a condition.
        OutputError: a file cannot be written, or another process is writing it.
    """
    if all(question.video is None for question in questions.questions):
        raise EvaluationError(
            f"{questions.name}: not one of its videos is there, such as {questions.missing[0]}; they are "
            "looked for beside the set, in its folder videos, and anywhere below (--videos FOLDER "
            "for another place)"
        )
    settings = complete_settings(settings, questions)
    failures: dict[str, list[Failure]] = {}
    unreadable: dict[Path, str] = {}
    for condition in conditions:

        def make(condition: Condition = condition) -> Answerer:
            return answerer(condition)

        with AnswerJournal(folder, condition, settings) as journal:
            failures[condition.name] = answer_questions(
                questions.questions, journal, make, session, step, unreadable
            )
    return failures


def complete_settings(settings: Settings, questions: QuestionSet) -> Settings:
    """Settings with the set that is answered."""
    return {**settings, "set": questions.fingerprint}


def read_runs(folder: Path, settings: Settings, questions: QuestionSet) -> list[Run]:
    """The answers of all conditions in a folder, those of other processes too.

    Raises:
        EvaluationError: a file is damaged, or of other settings.
    """
    wanted = complete_settings(settings, questions)
    runs = []
    for path in sorted(folder.glob("*.jsonl")):
        run, its_settings = read_run(path)
        if its_settings != wanted:
            raise EvaluationError(
                f"{path}: holds answers with {difference(its_settings, wanted)}; they cannot be "
                "compared: move the file away, or give another --out"
            )
        if run.answers:
            runs.append(run)
    return runs


def answer_questions(
    questions: Iterable[Question],
    journal: AnswerJournal,
    answerer: Callable[[], Answerer],
    session: Callable[[], Mapping[str, str]],
    step: Callable[[], object] = silent,
    unreadable: dict[Path, str] | None = None,
) -> list[Failure]:
    """Answer what is not answered yet, one question after the other.

    Args:
        questions: those without a video are passed over.
        answerer: makes the model, called once and only if there is something to answer.
        session: hardware and versions, likewise.
        step: called after every question.
        unreadable: files that cannot be opened as videos, and why: questions about them are not
            asked. Files that are found to be such are added.

    Returns:
        What could not be answered; it is tried again by the next run.

    Raises:
        EvaluationError: the first `GIVE_UP` questions failed, for other reasons than their videos.
    """
    model: Answerer | None = None
    failures: list[Failure] = []
    for question in questions:
        known = {} if unreadable is None else unreadable
        if question.id in journal.answers or question.video is None:
            pass
        elif question.video in known:
            failures.append(Failure(question, known[question.video]))
        else:
            if model is None:
                model = answerer()
                journal.begin_session(session())
            try:
                answer = model.answer(question)
            except AutoGazeError as error:
                failures.append(Failure(question, first_line(error)))
                if isinstance(error, VideoError) and not _opens(question.video):
                    known[question.video] = first_line(error)
                hopeless = len(failures) >= GIVE_UP and not journal.answers
                if hopeless and not isinstance(error, VideoError):
                    raise EvaluationError(
                        f"{journal.condition.name}: not one of {len(failures)} questions could be answered "
                        f"({first_line(error)}); leave this condition out or change the options"
                    ) from error
            else:
                journal.add(question, answer)
        step()
    return failures


def _opens(path: Path) -> bool:
    """Whether a file can be opened as a video, whichever frames are asked of it then."""
    from autogaze.video.reader import Video  # which needs PyAV

    try:
        Video(path)
    except VideoError:
        return False
    return True
