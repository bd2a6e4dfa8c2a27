"""Runs that are killed at random moments, one after the other, and one that is not.

    python -m tests.evaluation.answers.killed FOLDER KILLS SEED

Every run is a process of its own and gets a kill -9; the last one answers 20 more and ends. Ids of
questions are written to FOLDER/asked before they are answered.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autogaze.evaluation.answers.answering import DENSE, Condition
from autogaze.evaluation.answers.questions import Question, load_questions
from autogaze.evaluation.answers.run import AnswerJournal, answer_questions
from tests.evaluation.answers.material import FakeAnswerer

CONDITION = Condition(DENSE)
SETTINGS = {"model": "fake"}


class Witness(FakeAnswerer):
    """Notes what it is asked, in a file that it writes unbuffered."""

    def __init__(self, folder: Path) -> None:
        super().__init__(CONDITION)
        self.notes = os.open(folder / "asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def answer(self, question):
        os.write(self.notes, f"{question.id}\n".encode())
        answer = super().answer(question)
        time.sleep(0.001)
        return answer


def run(folder: Path, questions: Sequence[Question]) -> int:
    """The number of answers that there are now."""
    with AnswerJournal(folder / "answers", CONDITION, SETTINGS) as journal:
        answer_questions(questions, journal, lambda: Witness(folder), lambda: {"host": "here"})
        return len(journal.answers)


def asked_bytes(folder: Path) -> int:
    notes = folder / "asked"
    return notes.stat().st_size if notes.exists() else 0


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    questions = load_questions(folder).questions
    for number in range(kills):
        before = asked_bytes(folder)
        child = os.fork()
        if child == 0:
            run(folder, questions)
            os._exit(0)
        # On a busy machine most would be killed before they began: of four, three are seen to ask first.
        while number % 4 and asked_bytes(folder) == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.001, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit("a run came to its end: give more questions")
    reached = run(folder, ())
    run(folder, questions[: reached + 20])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
