"""A run over questions that a kill does not set back: what is answered already is not asked again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autogaze.errors import AutoGazeError, EvaluationError, VideoError, first_line
from autogaze.evaluation.answers.answering import Answerer, Condition
from autogaze.evaluation.answers.journal import AnswerJournal, Run, Settings, read_run
from autogaze.evaluation.answers.questions import Question, QuestionSet
from autogaze.utils.journal import difference
from autogaze.utils.progress import silent

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
