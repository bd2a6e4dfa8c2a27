"""How far gazing may go: caps, and the predicted loss at which a row stops before."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import SelectorError

Caps = Sequence[int] | Int[Tensor, "rows T"]
"""Patches a frame may take at most: one number a frame, or one a row and frame."""

Threshold = float | Float[Tensor, " rows"]
"""Predicted loss at which a frame stops: one number, or one a row."""


@dataclass(frozen=True)
class FrameLimits:
    """Of one frame.

    Attributes:
        caps: patches that each row may take at most, in [1, V].
        threshold: predicted loss at which a row stops, (rows, 1) where each has its own;
            None never stops.
    """

    caps: tuple[int, ...]
    threshold: float | Float[Tensor, "rows 1"] | None


@dataclass(frozen=True)
class ClipLimits:
    """Of the next T frames of all rows.

    Attributes:
        caps: a row's caps, frame by frame.
        threshold: see `FrameLimits`.
    """

    caps: tuple[tuple[int, ...], ...]
    threshold: float | Float[Tensor, "rows 1"] | None

    @classmethod
    def of(
        cls,
        caps: Caps | None,
        threshold: Threshold | None,
        *,
        num_rows: int,
        num_frames: int,
        num_patches: int,
    ) -> "ClipLimits":
        """Limits in the forms that callers have them.

        Args:
            caps: None lets every frame take all patches.
            threshold: None never stops.
            num_patches: V, what a cap can be at most.

        Raises:
            SelectorError: too few or too many of them, or caps outside [1, V].
        """
        if caps is None:
            caps = (num_patches,) * num_frames
        own = isinstance(caps, Tensor)
        rows = caps.tolist() if own else [list(caps)] * num_rows  # type: ignore[union-attr]
        if len(rows) != num_rows or any(len(row) != num_frames for row in rows):
            got = tuple(caps.shape) if isinstance(caps, Tensor) else f"{len(caps)} a row"
            raise SelectorError(
                f"caps must be one a frame ({num_frames}) or a tensor of (rows, frames) = "
                f"({num_rows}, {num_frames}), got {got}"
            )
        for cap in (cap for row in (rows if own else rows[:1]) for cap in row):
            if not 1 <= cap <= num_patches:
                raise SelectorError(f"caps must lie in [1, {num_patches}], got {cap}")
        if isinstance(threshold, Tensor):
            if threshold.shape != (num_rows,):
                raise SelectorError(
                    f"threshold must be a number or one for each of {num_rows} rows, "
                    f"got {tuple(threshold.shape)}"
                )
            threshold = threshold[:, None]
        return cls(tuple(map(tuple, rows)), threshold)

    def frame(self, frame: int, rows: slice) -> FrameLimits:
        """Of one frame of some of the rows."""
        own = isinstance(self.threshold, Tensor)
        threshold = self.threshold[rows] if own else self.threshold  # type: ignore[index]
        return FrameLimits(tuple(row[frame] for row in self.caps[rows]), threshold)


def room_for(caps: Caps) -> int:
    """Patches a frame that the caches must have room for: slots are shared by all rows."""
    most = caps.amax(0).tolist() if isinstance(caps, Tensor) else list(caps)
    return -(-sum(most) // max(1, len(most)))
