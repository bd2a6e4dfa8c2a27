"""Random augmentation of clips, the same in every frame.

It precedes normalisation, so that the selector and the reconstruction metric see the same clip.
"""

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import TrainingError
from autogaze.utils.seeding import integer, uniform


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes.

    Args:
        min_crop: smallest side of the square crop, which is resized back, as a share of the
            clip's side, in (0, 1].
        flip: mirror half of the clips horizontally.
        reverse: reverse the frames of half of the clips.
        brightness, contrast: largest relative change, in [0, 1].

    Raises:
        TrainingError: a value outside its range.
    """

    min_crop: float = 0.7
    flip: bool = True
    reverse: bool = False
    brightness: float = 0.1
    contrast: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.min_crop <= 1:
            raise TrainingError(
                f"dataset.augmentation.min_crop must lie in (0, 1], got {self.min_crop}"
            )
        for name in ("brightness", "contrast"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise TrainingError(f"dataset.augmentation.{name} must lie in [0, 1], got {value}")


def augment(
    frames: UInt8[Tensor, "T 3 S S"], settings: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "T 3 S S"]:
    """An augmented clip of the same shape."""
    side = frames.shape[-1]
    size = max(1, round(side * uniform(generator, settings.min_crop, 1.0)))
    top, left = (integer(generator, side - size + 1) for _ in range(2))
    frames = frames[..., top : top + size, left : left + size]
    if size != side:
        frames = F.interpolate(frames, (side, side), mode="bilinear", antialias=True)
    if settings.flip and integer(generator, 2):
        frames = frames.flip(-1)
    if settings.reverse and integer(generator, 2):
        frames = frames.flip(0)
    gain = 1 + uniform(generator, -settings.contrast, settings.contrast)
    lift = 1 + uniform(generator, -settings.brightness, settings.brightness)
    if gain != 1 or lift != 1:
        bright = frames.float() * lift
        mean = bright.mean()
        frames = ((bright - mean) * gain + mean).round().clamp(0, 255).to(torch.uint8)
    return frames.contiguous()
