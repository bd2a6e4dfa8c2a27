"""Clips of square frames, and the two settings every selector takes: ratio and loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from autogaze.errors import SelectorError

Ratio = float | Sequence[float]
"""Cap on the chosen share of all V patches: one number, or one per frame."""


@dataclass(frozen=True)
class Clips:
    """B clips of T square frames: what selectors take.

    Choosing has no gradient, so frames that require one are detached.

    Args:
        frames: (B, T, 3, S, S) RGB, uint8 in [0, 255] or floats in [0, 1].
        motion: (B, T, g, g) motion of each finest cell in pixels, from the decoder's motion
            vectors (see `autogaze.video.motion`); only the codec selector needs it.
    """

    frames: Shaped[Tensor, "B T 3 S S"]
    motion: Float[Tensor, "B T g g"] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if len(shape) != 5 or shape[2] != 3 or shape[3] != shape[4]:
            raise SelectorError(f"expected frames (clips, frames, 3, side, side), got {shape}")
        if self.frames.dtype != torch.uint8 and not self.frames.is_floating_point():
            raise SelectorError(f"expected uint8 or float frames, got {self.frames.dtype}")
        object.__setattr__(self, "frames", self.frames.detach())
        if self.motion is not None and tuple(self.motion.shape[:2]) != shape[:2]:
            raise SelectorError(f"motion is {tuple(self.motion.shape)} for frames {shape}")

    @property
    def num_clips(self) -> int:
        return self.frames.shape[0]

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    def unit(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames as float32 in [0, 1].

        Raises:
            SelectorError: NaN, or values outside [0, 1] (normalised frames, say).
        """
        if self.frames.dtype == torch.uint8:
            return self.frames.float().div_(255)
        frames = self.frames.float()
        if frames.numel():
            low, high = (float(value) for value in frames.aminmax())
            if not (low >= -1e-4 and high <= 1 + 1e-4):
                raise SelectorError(
                    f"frames must be finite and lie in [0, 1] (or be uint8), got {low:g} to {high:g}"
                )
        return frames

    def frame(self, index: int) -> "Clips":
        """One frame of every clip."""
        motion = None if self.motion is None else self.motion[:, index : index + 1]
        return Clips(self.frames[:, index : index + 1], motion)

    def split(self, size: int) -> "list[Clips]":
        """The same clips, at most `size` at a time."""
        frames = self.frames.split(size)
        if self.motion is None:
            return [Clips(part) for part in frames]
        return [Clips(*both) for both in zip(frames, self.motion.split(size), strict=True)]


def as_clips(clips: "Clips | Tensor") -> Clips:
    return clips if isinstance(clips, Clips) else Clips(clips)


def check_ratio(ratio: Ratio | None) -> None:
    """Raise `SelectorError` unless every ratio lies in (0, 1]."""
    if ratio is None:
        return
    values = [ratio] if isinstance(ratio, str) or not isinstance(ratio, Sequence) else list(ratio)
    if not values or not all(_is_number(value) and 0 < value <= 1 for value in values):
        raise SelectorError(f"ratio must lie in (0, 1], got {ratio!r}")


def check_loss(loss: float) -> None:
    """Raise `SelectorError` unless `loss` is a finite number of at least 0."""
    if not (_is_number(loss) and 0 <= loss < float("inf")):
        raise SelectorError(f"loss must be at least 0, got {loss!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def frame_cap(ratio: Ratio | None, frame: int, num_patches: int) -> int:
    """Patches that frame number `frame` may take: max(1, floor(ratio * V)), V without a ratio."""
    if ratio is None:
        return num_patches
    if isinstance(ratio, Sequence):
        if frame >= len(ratio):
            raise SelectorError(f"{len(ratio)} ratios given, but there is a frame {frame}")
        ratio = ratio[frame]
    # In floats, as AutoGaze computes it: 0.29 of 100 patches are 28, since 0.29 * 100 < 29.
    return max(1, int(ratio * num_patches))


def frame_caps(ratio: Ratio | None, num_frames: int, num_patches: int) -> list[int]:
    """`frame_cap` of every frame from 0 on."""
    return [frame_cap(ratio, frame, num_patches) for frame in range(num_frames)]
