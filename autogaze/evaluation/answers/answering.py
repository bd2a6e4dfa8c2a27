"""What answers questions, what an answer costs, and under which conditions it is given."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from autogaze.checks import is_finite
from autogaze.errors import EvaluationError
from autogaze.evaluation.answers.questions import Question

MAX_NEW_TOKENS = 16
"""Of an answer, as in HLVid's protocol."""
DENSE, CONTROLS = "dense", ("random", "centre", "uniform")
"""Everything is seen; what any selector must be better than at the same number of tokens."""


@dataclass(frozen=True)
class StageSeconds:
    """Wall-clock seconds of one answer, by stage; encode is the vision encoder."""

    decode: float = 0.0
    select: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    generate: float = 0.0


STAGES = tuple(field.name for field in dataclasses.fields(StageSeconds))


@dataclass(frozen=True)
class Answer:
    """What a model said to a question, and what it cost.

    Attributes:
        text: the new tokens as text.
        prompt_tokens: tokens of the LLM's input, text and vision.
        dense_prompt_tokens: how many they would be with everything kept.
        kept_units, dense_units: units (patches that become one token) kept, and in all; None
            where the family has none.
        peak_memory: bytes; None where it was not measured.
        frame_size: width and height in pixels of the frames that the model got; None where they
            are not known.
    """

    text: str
    prompt_tokens: int
    dense_prompt_tokens: int
    seconds: StageSeconds
    kept_units: int | None = None
    dense_units: int | None = None
    peak_memory: int | None = None
    frame_size: tuple[int, int] | None = None


@runtime_checkable
class Answerer(Protocol):
    """A model that answers questions about videos, under one condition.

    The prompt is the video, a blank line and `question.text` as it is; families with a chat
    template take the video and the text as the two parts of the user's message. Decoding is greedy
    and ends after the number of new tokens that it was made with.
    """

    def answer(self, question: Question) -> Answer:
        """Answer about the file `question.video`, without looking at `question.answer`.

        Raises:
            AutoGazeError: this question cannot be answered (a damaged video, a context too long).
        """


@dataclass(frozen=True)
class Condition:
    """How much of a video is seen, and what chooses it.

    Attributes:
        selector: `DENSE`, one of `CONTROLS`, or what `autogaze.load` takes. `uniform` is whole
            frames at equal distances, as many as the budget pays for.
        ratio: cap on the share of units that is kept, in (0, 1].
        max_vision_tokens: cap on the vision tokens of a prompt, instead.

    Raises:
        EvaluationError: a budget for `DENSE`, none or two for another one, or one out of range.
    """

    selector: str
    ratio: float | None = None
    max_vision_tokens: int | None = None

    def __post_init__(self) -> None:
        budgets = [b for b in (self.ratio, self.max_vision_tokens) if b is not None]
        if len(budgets) != (self.selector != DENSE):
            raise EvaluationError(
                f"{self.selector}: takes {'no budget' if self.selector == DENSE else 'one budget'} "
                f"(ratio or max_vision_tokens), got {len(budgets)}"
            )
        if self.ratio is not None and not (is_finite(self.ratio) and 0 < self.ratio <= 1):
            raise EvaluationError(f"ratio must be in (0, 1], got {self.ratio}")
        if self.max_vision_tokens is not None and self.max_vision_tokens < 1:
            raise EvaluationError(
                f"max_vision_tokens must be at least 1, got {self.max_vision_tokens}"
            )

    @property
    def budget(self) -> str:
        """In words; empty for `DENSE`."""
        if self.ratio is not None:
            return f"{100 * self.ratio:g} %"
        return "" if self.max_vision_tokens is None else f"{self.max_vision_tokens} tokens"

    @property
    def name(self) -> str:
        return f"{self.selector} {self.budget}".strip()

    @property
    def file_name(self) -> str:
        """Of its journal; ends in a hash where characters had to be replaced."""
        plain = re.sub(r"[^\w.]+", "-", self.name.replace(" %", "")).strip("-.")[:80]
        if re.fullmatch(r"[\w.-]+", self.selector):
            return f"{plain}.jsonl"
        return f"{plain}-{hashlib.sha256(self.selector.encode()).hexdigest()[:6]}.jsonl"


def plan_conditions(
    selectors: Sequence[str],
    ratios: Sequence[float] = (),
    max_vision_tokens: Sequence[int] = (),
    *,
    dense: bool = True,
    controls: Sequence[str] = CONTROLS,
) -> tuple[Condition, ...]:
    """`DENSE`, then every selector and control at every budget."""
    names = list(dict.fromkeys([*selectors, *controls]))
    return (
        *([Condition(DENSE)] if dense else []),
        *(Condition(n, ratio=ratio) for ratio in dict.fromkeys(ratios) for n in names),
        *(
            Condition(n, max_vision_tokens=count)
            for count in dict.fromkeys(max_vision_tokens)
            for n in names
        ),
    )
