"""Five questions about a clip, each with four options of one word, and the words of the benchmark."""

from dataclasses import dataclass

import numpy as np

from answers.drawing import COLOURS, DIRECTIONS, SPLITS, TUBELETS, Facts

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = {
    "digit": "which digit stands in the corner ?",
    "colour": "what colour is the shape ?",
    "count": "how many dots are there ?",
    "direction": "which way does it move ?",
    "second": "at which second does the lamp light ?",
}
KINDS = tuple(QUESTIONS)
ANSWERS = {
    "digit": NUMBERS,
    "colour": tuple(COLOURS),
    "count": NUMBERS[1:5],
    "direction": tuple(DIRECTIONS),
    "second": NUMBERS[1:TUBELETS],
}
"""All answers to a kind of question; of digits and colours, three wrong ones are drawn."""


@dataclass(frozen=True)
class Question:
    """A question about a clip.

    Attributes:
        kind: one of `KINDS`.
        text: words apart by spaces.
        options: four words, the right one at any place.
        answer: the right one.
    """

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str


def right_answer(kind: str, facts: Facts) -> str:
    """The answer, from what was drawn."""
    return {
        "digit": NUMBERS[facts.digit],
        "colour": facts.colour,
        "count": NUMBERS[facts.num_dots],
        "direction": facts.direction,
        "second": NUMBERS[facts.second],
    }[kind]


def ask(kind: str, facts: Facts, split: str, number: int) -> Question:
    """The question of a kind about the clip of this number."""
    rng = np.random.default_rng((SPLITS[split], number, KINDS.index(kind)))
    answer = right_answer(kind, facts)
    wrong = rng.permutation([word for word in ANSWERS[kind] if word != answer])[:3]
    options = tuple(str(word) for word in rng.permutation([answer, *wrong]))
    return Question(kind, QUESTIONS[kind], options, answer)
