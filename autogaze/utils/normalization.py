"""Pixel statistics: means and standard deviations with which vision models normalise RGB."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from autogaze.errors import warn_renamed
from autogaze.utils.device import constant


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of red, green and blue, of values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of_rescaled(
        cls, mean: Sequence[float], std: Sequence[float], factor: float, *, offset: bool
    ) -> "PixelStatistics":
        """The statistics that do what an image processor does to RGB in [0, 255].

            (rgb * factor - offset - mean) / std

        Args:
            mean, std: of the rescaled values, one per channel.
            factor: above 0, such as 1 / 255.
            offset: whether 1 is subtracted after rescaling.
        """
        unit = 255 * factor
        centre = [(value + offset) / unit for value in mean]
        spread = [value / unit for value in std]
        return cls((centre[0], centre[1], centre[2]), (spread[0], spread[1], spread[2]))

    def normalise(self, rgb: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
        """(rgb - mean) / std, of RGB in [0, 1]."""
        return (rgb - _channels(rgb, self.mean)) / _channels(rgb, self.std)

    def denormalise(self, pixels: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
        """The inverse of `normalise`; values outside of [0, 1] are not clipped."""
        return pixels * _channels(pixels, self.std) + _channels(pixels, self.mean)

    @property
    def deviation(self) -> tuple[float, float, float]:
        """Former name of `std`."""
        warn_renamed("PixelStatistics.deviation", "PixelStatistics.std")
        return self.std


def _channels(like: Tensor, values: tuple[float, ...]) -> Float[Tensor, "3 1 1"]:
    return constant(values, like.device, like.dtype)[:, None, None]


IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = PixelStatistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Of SigLIP, SigLIP2 and ViT; normalises to [-1, 1]."""
