"""The letter that an answer means, in all the ways in which models write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogaze.evaluation.answers.letters import find_letter
from autogaze.evaluation.answers.questions import LETTERS


@pytest.mark.parametrize(
    "text",
    [
        "B", "B.", "(B)", "[B]", "{B}", "B)", "B:", "Answer: B", "answer: b", "b", "(b)", "b.", "**B**", "*B*",
        "_B_", "`B`", '"B"', "'B'", "\\boxed{B}", "$B$", "B\n", "\n\nB. Hampden Ave", "B<|im_end|>", "B, the green one",
        "The answer is B.", "the correct answer is b", "Option B", "I choose B!", "B - because it is green", "B.Green",
        "A dog is there, so B", "A Dogged man? No: A",
        "答案是B。", "（Ｂ）", "Ⓑ", "<think>Is it A or C?</think>\n\nB", "Is it A or C?</think>B",
        "It's B", "B/", "-B", "1. B", "1.B", "B is right, not A", "B or A", "Not 4D but B", "20 °C, so B", "C++ and C#: B",
        "A/C is off: B", "The A-frame: B", "B&B? B", "Vitamin-C: B", "D.C. is in B", "the U.S.A. is B",
    ],
)  # fmt: skip
def test_the_first_letter_that_stands_alone(text: str) -> None:
    wanted = "A" if text.endswith("No: A") else "B"
    assert find_letter(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["A", "A.", "a", "(a)", "A is right", "A because it is", "A and B", "A\nthe dog", "A. a dog", "A Stop sign", "A, a dog",
     "Answer: A", "**A** dog"],
)  # fmt: skip
def test_an_a_that_is_no_article(text: str) -> None:
    assert find_letter(text) == "A"


@pytest.mark.parametrize(
    "text",
    ["", " ", "A dog", "A dog runs", "Answer: A dog", '"A dog"', "E", "F.", "e", "Berlin", "ABCD", "AB", "a dog", "it is a car",
     "4D", "D4", "B2B", "AC/DC", "C++", "C#", "A+", "B's", "20 °C", "U.S.A.", "D.C.", "A-frame", "A/C", "I do not know",
     "<think>It may be A or", "the a", "optiona", "Ça", "Δ", "В", "none"],
)  # fmt: skip
def test_no_letter(text: str) -> None:
    """The last but one are Greek and Cyrillic."""
    assert find_letter(text) is None


@given(letter=st.sampled_from(LETTERS), before=st.text(" \n.:;!?()[]*\"", max_size=5), after=st.text(" \n.:;!?()[]*\"", max_size=5))  # fmt: skip
def test_marks_around_a_letter_do_not_matter(letter: str, before: str, after: str) -> None:
    for text in (f"{before}{letter}{after}", f"{before}{letter.lower()}{after}"):
        assert find_letter(text) == letter


@given(st.text(max_size=40))
def test_any_text_is_read(text: str) -> None:
    letter = find_letter(text)
    assert letter is None or letter in LETTERS
