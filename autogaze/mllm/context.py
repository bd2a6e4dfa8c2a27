"""The LLM's context: whether a prompt fits into it, and how many frames would."""

import math
from dataclasses import dataclass

from autogaze.errors import MLLMError
from autogaze.mllm.checks import counted


@dataclass(frozen=True)
class Context:
    """Positions that an LLM takes.

    Args:
        limit: of the prompt with every unit, and the answer.
        new_tokens: of the answer.
    """

    limit: int
    new_tokens: int = 0

    def check(
        self,
        length: int,
        *,
        tokens: int | None = None,
        frames: int | None = None,
        per_frame: float = 1.0,
        any_size: bool = False,
    ) -> None:
        """Raise `MLLMError` where a prompt is too long.

        Args:
            length: of the prompt with every unit, in positions.
            tokens: that are left of it, if that is known.
            frames: of its only video; None where positions are not counted by frames.
            per_frame: positions that a frame takes, its text included.
            any_size: whether the model takes smaller frames too.
        """
        last = length + self.new_tokens
        if last <= self.limit:
            return
        fewer = "take fewer frames (max_frames; --frames of commands)"
        if frames is not None:
            fits = frames - math.ceil((last - self.limit) / per_frame)
            fewer += f": about {fits} of these {frames} fit" if fits > 0 else ": not even one fits"
        if any_size:
            fewer += ", or smaller ones (resolution='stock', which a ratio brings too)"
        left = "" if tokens is None else f"the prompt has {tokens} tokens, and "
        raise MLLMError(
            f"{left}with {counted(self.new_tokens, 'new token')} the prompt's positions reach {last}; the LLM "
            f"takes {self.limit}. Positions are those of the prompt with every unit, whatever is "
            f"kept: {fewer}"
        )
