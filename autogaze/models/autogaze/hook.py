"""Gazing hook: rules for which patches may be chosen, how many, and whether frames stop early.

    model.gazing_model.hook = lambda frame: FrameRules(allowed=range(4, 265), budget=20, early_stopping=False)

It stands where the published model has `gazing_model.logits_processor`, and is asked once per
frame, so that nothing is added to the loop over patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.limits import FrameLimits


@dataclass(frozen=True)
class FrameRules:
    """Rules for one frame: allowed patches, their number, and early stopping.

    Args:
        allowed: the patches that may be chosen: ids, a list or a tensor, or True for them in a bool
            tensor (V,) or (clips, V). None: all.
        budget: the most patches that the frame takes, in place of the call's ratio: one number, or one
            per clip, reduced to the number of allowed patches. None: the call's ratio.
        early_stopping: whether the call's threshold applies. Without it a frame takes its whole budget.

    With another encoder's grid every tile is a clip.
    """

    allowed: Sequence[int] | Tensor | None = None
    budget: int | Sequence[int] | None = None
    early_stopping: bool = True

    def narrow(
        self, limits: FrameLimits, *, num_clips: int, num_patches: int, device: torch.device
    ) -> FrameLimits:
        """These rules on top of the limits of all rows; row = repetition * clips + clip.

        Args:
            num_patches: V.

        Raises:
            SelectorError: patches or budgets that do not exist, or a clip without any patch.
        """
        repetitions = len(limits.caps) // num_clips
        allowed = self._allowed(num_clips, num_patches)  # (clips, V)
        caps = list(limits.caps)
        if self.budget is not None:
            caps = self._budgets(num_clips, num_patches) * repetitions
        counts = allowed.sum(-1).tolist() * repetitions
        if 0 in counts:
            raise SelectorError(
                "the hook allows no patch of a frame; every frame takes at least one"
            )
        return replace(
            limits,
            caps=tuple(map(min, caps, counts)),
            threshold=limits.threshold if self.early_stopping else None,
            allowed=allowed.to(device).repeat(repetitions, 1),
        )

    def _budgets(self, num_clips: int, num_patches: int) -> list[int]:
        budget: Any = self.budget
        budgets = (
            [budget] * num_clips if isinstance(budget, int) else [int(each) for each in budget]
        )
        if len(budgets) != num_clips or not all(1 <= each <= num_patches for each in budgets):
            raise SelectorError(
                f"the hook's budget must be a number in [1, {num_patches}], or one for each of "
                f"{num_clips} clips; got {budget}"
            )
        return budgets

    def _allowed(self, num_clips: int, num_patches: int) -> Bool[Tensor, "clips V"]:
        allowed: Any = self.allowed
        everything = torch.ones(num_clips, num_patches, dtype=torch.bool)
        if allowed is None:
            return everything
        if not isinstance(allowed, Tensor):
            allowed = torch.tensor([int(each) for each in allowed], dtype=torch.long)
        allowed = allowed.cpu()
        if allowed.dtype == torch.bool:
            if allowed.shape not in ((num_patches,), (num_clips, num_patches)):
                raise SelectorError(
                    f"the hook's mask must be ({num_patches},) or ({num_clips}, {num_patches}), "
                    f"got {tuple(allowed.shape)}"
                )
            return everything & allowed
        if allowed.ndim != 1 or allowed.is_floating_point():
            raise SelectorError(
                f"the hook must allow ids or a bool mask, got {allowed.dtype} {tuple(allowed.shape)}"
            )
        wrong = allowed[(allowed < 0) | (allowed >= num_patches)].tolist()
        if wrong:
            raise SelectorError(f"ids must lie in [0, {num_patches}), the hook allows {wrong[0]}")
        return torch.zeros_like(everything).index_fill(1, allowed, True)


GazingHook = FrameRules | Callable[[int], FrameRules | None]
"""Rules for all frames, or a function of the frame's number in its clip or stream, from 0 on."""


def rules_of(hook: GazingHook, frame: int) -> FrameRules:
    """The rules of one frame.

    Raises:
        SelectorError: the hook is not a `FrameRules` and does not return one.
    """
    rules = hook if isinstance(hook, FrameRules) or not callable(hook) else hook(frame)
    if rules is None:
        return FrameRules()
    if not isinstance(rules, FrameRules):
        raise SelectorError(
            "a hook is a FrameRules, or a function that takes a frame's number and returns one; "
            f"got {type(rules).__name__}"
        )
    return rules
