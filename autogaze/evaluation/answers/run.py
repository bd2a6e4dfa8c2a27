"""A run over questions that a kill does not set back: what is answered already is not asked again."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from autogaze.errors import AutoGazeError, VideoError, first_line
from autogaze.evaluation.answers.answering import Answerer
from autogaze.evaluation.answers.journal import AnswerJournal
from autogaze.evaluation.answers.questions import Question
from autogaze.utils.progress import silent

GIVE_UP = 3
"""Errors in a row, with nothing answered yet, after which a run stops: all others would fail too."""


@dataclass(frozen=True)
class Failure:
    """A question that could not be answered under a condition, and why."""

    question: Question
    cause: str


def answer_questions(
    questions: Iterable[Question],
    journal: AnswerJournal,
    answerer: Callable[[], Answerer],
    session: Callable[[], Mapping[str, str]],
    step: Callable[[], object] = silent,
) -> list[Failure]:
    """Answer what is not answered yet, one question after the other.

    Args:
        questions: those without a video are passed over.
        answerer: makes the model, called once and only if there is something to answer.
        session: hardware and versions, likewise.
        step: called after every question.

    Returns:
        What could not be answered; it is tried again by the next run.

    Raises:
        AutoGazeError: the first `GIVE_UP` questions failed, for other reasons than their videos.
    """
    model: Answerer | None = None
    failures: list[Failure] = []
    for question in questions:
        if question.id not in journal.answers and question.video is not None:
            if model is None:
                model = answerer()
                journal.begin_session(session())
            try:
                answer = model.answer(question)
            except AutoGazeError as error:
                failures.append(Failure(question, first_line(error)))
                hopeless = len(failures) >= GIVE_UP and not journal.answers
                if hopeless and not isinstance(error, VideoError):
                    raise
            else:
                journal.add(question, answer)
        step()
    return failures
