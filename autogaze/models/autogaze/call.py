"""The arguments of `AutoGaze.forward` as users give them, turned into limits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.checks import is_finite
from autogaze.clips import Ratio
from autogaze.errors import SelectorError
from autogaze.models.autogaze.output import SCORED


def read_ratio(ratio: Any) -> Ratio | None:
    """A cap as a share of all patches: a number, or one per frame, in [0, 1].

    Values above 1 mean all patches. A share of 0 is taken as it is: every frame gazes at one
    patch at least.

    Args:
        ratio: a number or a list, tensor or array of them; None.

    Raises:
        SelectorError: something else, negative or not finite.
    """
    given = ratio.tolist() if isinstance(ratio, Tensor | np.ndarray | np.generic) else ratio
    if given is None:
        return None
    shares = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not shares or not all(is_finite(share) and share >= 0 for share in shares):
        raise SelectorError(
            f"gazing_ratio must be a number of at least 0, or one for each frame; got {ratio!r}"
        )
    shares = [min(float(share), 1.0) for share in shares]
    return shares if isinstance(given, Sequence) else shares[0]


def read_requirement(
    requirement: Any, num_clips: int, num_frames: int
) -> float | Float[Tensor, "B T"] | None:
    """A stopping threshold: one number, or one per clip and frame.

    Args:
        requirement: a number, or what broadcasts to (B, T) and has two axes; None.

    Raises:
        SelectorError: another shape, or NaN.
    """
    if requirement is None:
        return None
    shape = (num_clips, num_frames)
    try:
        values = torch.as_tensor(requirement, dtype=torch.float32)
        if values.ndim not in (0, 2) or isinstance(requirement, bool) or values.isnan().any():
            raise ValueError
        table = values.expand(shape)
    except (RuntimeError, TypeError, ValueError):
        got = tuple(requirement.shape) if hasattr(requirement, "shape") else repr(requirement)
        raise SelectorError(
            f"task_loss_requirement must be a number or (clips, frames) = {shape}, got {got}"
        ) from None
    # A number may have more digits than float32.
    return float(requirement) if values.ndim == 0 else table


def read_gazing_info(gazing_info: Any) -> dict[str, Any] | None:
    """Gazes to score; None where there are none.

    Raises:
        SelectorError: no mapping.
    """
    if gazing_info is None:
        return None
    if not isinstance(gazing_info, Mapping):
        raise SelectorError(
            "gazing_info must be the padded dict of a gaze, got "
            f"{type(gazing_info).__name__}; gazing_ratio is the argument after it"
        )
    # Old scores would hide the new ones, and may cost a pass to read.
    return {key: gazing_info[key] for key in gazing_info if key not in SCORED} or None


def per_row(
    threshold: float | Float[Tensor, "B T"] | None, rows_per_clip: int
) -> float | Float[Tensor, "rows T"] | None:
    """Thresholds of rows that follow one another for each clip, as tiles do."""
    if isinstance(threshold, Tensor):
        return threshold.repeat_interleave(rows_per_clip, 0)
    return threshold


def as_table(
    threshold: float | Float[Tensor, "B T"] | None, video: Tensor
) -> Float[Tensor, "B T"] | None:
    """A threshold as (B, T) on the device of `video` (B, T, ...)."""
    if threshold is None:
        return None
    if isinstance(threshold, Tensor):
        return threshold.to(video.device)
    return torch.full(tuple(video.shape[:2]), threshold, device=video.device)
