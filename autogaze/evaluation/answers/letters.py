"""The letter that a model answered with.

The answer is the first of A to D that stands alone. What that means:

- It touches no letter, digit, apostrophe or "&" ("Berlin", "4D", "B&B", "C's"), is no part of an
  abbreviation ("U.S.A.", "D.C.") or of words joined by a hyphen or slash ("A-frame", "A/C"), and
  no "C++", "C#" or "20 °C". Brackets, stars, quotes, points and commas around it do not matter; nor do
  letters of scripts without capitals (Chinese text is written without spaces).
- A capital "A" before a word in small letters on the same line is the article ("A dog"),
  unless a verb or a conjunction follows ("A is right", "A because ...").
- Small letters count if they are the whole answer ("b", "(b)", "answer: b").
- What a model thinks before its answer, "<think> ... </think>", is left out; where the thinking
  was cut short, there is no answer.
"""

import re
import unicodedata

from autogaze.evaluation.answers.questions import LETTERS

_AFTER_AN_OPTION = {
    "is", "was", "are", "would", "will", "can", "must", "should", "does", "has", "seems", "appears",
    "looks", "fits", "matches", "shows", "describes", "because", "since", "as", "and", "or", "but", "not",
}  # fmt: skip
"""Words before which "A" is an option; before other words in small letters it is the article."""
_ALONE = re.compile(
    r"[^\w&+#/]*(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?\W+)?([a-d])[^\w&+#/]*",
    re.IGNORECASE,
)
_JOINING = "-\N{HYPHEN}\N{NON-BREAKING HYPHEN}/&'\N{RIGHT SINGLE QUOTATION MARK}_+#"
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


def find_letter(text: str) -> str | None:
    """The letter of an answer, "A" to "D"; None if it has none."""
    text = unicodedata.normalize("NFKC", text)  # full-width and circled letters
    text = _THOUGHT.sub("", text).rpartition("</think>")[2]
    if match := _ALONE.fullmatch(text):
        return match[1].upper()
    for place, letter in enumerate(text):
        if letter in LETTERS and _stands_alone(text[:place], text[place + 1 :]):
            if letter == "A" and _is_article(text[place + 1 :]):
                continue
            return letter
    return None


def _stands_alone(before: str, after: str) -> bool:
    """Whether a letter between two texts is a word of its own."""
    if _in_word(before[-1:]) or _in_word(after[:1]):
        return False
    if before[-1:] and before[-1] in _JOINING and _in_word(before[-2:-1]):
        return False  # "X/A", "pre-A"
    if after[:1] and after[0] in _JOINING and (_in_word(after[1:2]) or after[0] in "&+#"):
        return False  # "A/C", "B&B", "C++"
    if before[-1:] == "\N{DEGREE SIGN}":
        return False
    if before[-1:] == "." and before[-2:-1].isalpha() and not _in_word(before[-3:-2]):
        return False  # the last letter of "U.S.A."
    return not (after[:1] == "." and after[1:2].isalpha() and not _in_word(after[2:3]))


def _in_word(character: str) -> bool:
    """Whether it is a letter of a script with capitals, or a digit; an empty text is neither."""
    return character.isdigit() or character.lower() != character.upper()


def _is_article(after: str) -> bool:
    """Whether the text behind "A" begins with a blank and a word in small letters."""
    word = re.match(r"[ \t]+([^\W\d_]+)", after)
    return word is not None and word[1].islower() and word[1] not in _AFTER_AN_OPTION
