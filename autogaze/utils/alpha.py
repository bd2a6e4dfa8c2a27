"""Transparent pixels, wherever they come from, lie on black."""

import numpy as np
from jaxtyping import UInt8


def on_black(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels composited on black: colour times alpha, rounded."""
    colour = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (colour // 255).astype(np.uint8)
