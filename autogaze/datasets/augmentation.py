"""Random augmentation of clips, the same in every frame.

It precedes normalisation, so that the selector and the reconstruction metric see the same clip.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import TrainingError
from autogaze.utils.seeding import integer, uniform


@dataclass(frozen=True)
class ResizedCrop:
    """Crop of random area and aspect ratio, resized to the clip's size (Inception's crop).

    Args:
        scale_min, scale_max: area of the crop as a share of the clip's, uniform in this range.
        ratio_min, ratio_max: width by height; its logarithm is uniform. Crops that would not fit
            into the clip are cut to its sides.

    Raises:
        TrainingError: an empty range, or areas outside (0, 1].
    """

    scale_min: float = 0.08
    scale_max: float = 1.0
    ratio_min: float = 3 / 4
    ratio_max: float = 4 / 3

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise TrainingError(
                "a resized crop's scale_min and scale_max must lie in (0, 1], the least first, got "
                f"{self.scale_min} and {self.scale_max}"
            )
        if not 0 < self.ratio_min <= self.ratio_max < math.inf:
            raise TrainingError(
                "a resized crop's ratio_min and ratio_max must be above 0, the least first, got "
                f"{self.ratio_min} and {self.ratio_max}"
            )

    def draw(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int]:
        """Height and width in pixels of a crop of a frame of this size."""
        area = height * width * uniform(generator, self.scale_min, self.scale_max)
        ratio = math.exp(uniform(generator, math.log(self.ratio_min), math.log(self.ratio_max)))
        tall, wide = math.sqrt(area / ratio), math.sqrt(area * ratio)
        return min(height, max(1, round(tall))), min(width, max(1, round(wide)))


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes.

    Args:
        min_crop: smallest side of the square crop, which is resized back, as a share of the
            clip's side, in (0, 1].
        flip: mirror half of the clips horizontally.
        reverse: reverse the frames of half of the clips.
        brightness, contrast: largest relative change, in [0, 1].
        resized_crop: in place of the square crop, where given.

    Raises:
        TrainingError: a value outside its range.
    """

    min_crop: float = 0.7
    flip: bool = True
    reverse: bool = False
    brightness: float = 0.1
    contrast: float = 0.1
    resized_crop: ResizedCrop | None = None

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
    if settings.resized_crop is None:
        height = width = max(1, round(side * uniform(generator, settings.min_crop, 1.0)))
    else:
        height, width = settings.resized_crop.draw(side, side, generator)
    frames = crop(frames, (height, width), (side, side), generator)
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


def crop(
    frames: Num[Tensor, "T 3 H W"],
    size: tuple[int, int],
    result: tuple[int, int],
    generator: torch.Generator,
) -> Num[Tensor, "T 3 h w"]:
    """A crop of the given height and width at a random place, resized to `result`."""
    height, width = size
    top = integer(generator, frames.shape[-2] - height + 1)
    left = integer(generator, frames.shape[-1] - width + 1)
    frames = frames[..., top : top + height, left : left + width]
    if size == result:
        return frames
    return F.interpolate(frames, result, mode="bilinear", antialias=True)
