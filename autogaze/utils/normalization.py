"""How vision models want their pixels: by which mean and deviation they are normalised."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and deviation of red, green and blue, of pixels in [0, 1]."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def normalise(self, frames: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
        """Pixels in [0, 1] as the model wants them."""
        mean, deviation = (
            frames.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation)
        )
        return (frames - mean) / deviation


IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = PixelStatistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""To [-1, 1], as SigLIP and ViT have it."""
