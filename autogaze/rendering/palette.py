"""Colours and letters shared by all pictures."""

from functools import cache

import numpy as np
from jaxtyping import UInt8
from PIL import ImageFont

Colour = tuple[int, int, int]

GROUND: Colour = (16, 18, 22)
PANEL: Colour = (26, 29, 35)
INK: Colour = (232, 234, 237)
FAINT: Colour = (138, 144, 153)

# Coarse to fine, from cold to hot; told apart in greyscale and by colour-blind eyes.
_RAMP = np.array([(92, 124, 250), (38, 190, 180), (255, 207, 92), (255, 84, 208)], dtype=float)


def scale_colours(num_scales: int) -> UInt8[np.ndarray, "{num_scales} 3"]:
    """One colour a scale, coarse to fine."""
    at = np.linspace(0, len(_RAMP) - 1, num_scales) if num_scales > 1 else np.array([3.0])
    steps = np.arange(len(_RAMP))
    ramp = [np.interp(at, steps, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(ramp, axis=-1).round().astype(np.uint8)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface at a size in pixels."""
    return ImageFont.load_default(size=size)  # type: ignore[return-value]
