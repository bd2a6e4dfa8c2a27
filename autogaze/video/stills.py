"""Reading still images, as videos of one frame.

Pillow reads them rather than FFmpeg, which hides truncated JPEGs and mistakes CMYK
for transparency.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from autogaze.errors import CorruptVideoError, VideoError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that Pillow reads; GIF and animated PNG are left to FFmpeg."""

_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)
"""Errors that Pillow's plugins raise on damaged files."""

_ORIENTATION = 0x0112  # the EXIF tag, and the degrees its values stand for
_ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}


@dataclass(frozen=True)
class Still:
    """The header of one image file.

    Args:
        width, height: displayed pixels (EXIF orientation applied).
        rotation: degrees counter-clockwise from the stored to the displayed image.
    """

    format: str
    mode: str
    width: int
    height: int
    rotation: int


def still_header(path: Path) -> Still | None:
    """The header of an image file; None if it is no image, or an animation for FFmpeg."""
    try:
        with _open(path) as image:
            if image.format in ("PNG", "AVIF", "WEBP") and getattr(image, "is_animated", False):
                if image.format == "WEBP":
                    raise VideoError(f"{path}: animated WebP is not supported; convert it to MP4")
                return None
            turn = image.getexif().get(_ORIENTATION, 1)
            width, height = image.size if turn < 5 else image.size[::-1]
            rotation = _ROTATIONS.get(turn, 0)
            return Still(str(image.format).lower(), image.mode, width, height, rotation)
    except VideoError:
        raise
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: {error}") from error
    except _DAMAGE:  # "no image that Pillow knows" is one of these
        return None


def read_still(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The displayed RGB pixels of an image; transparent pixels are composited on black.

    Raises:
        CorruptVideoError: the file is truncated or damaged.
    """
    try:
        with _open(path) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.mode.startswith("I"):
                # Pillow clips 16-bit grey to 255 where it should be scaled.
                grey = np.asarray(image, dtype=np.float64) / 257
                pixels = np.repeat(grey.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            elif image.has_transparency_data:
                pixels = on_black(np.asarray(image.convert("RGBA")))
            else:
                pixels = np.array(image.convert("RGB"))  # a copy: Pillow's own cannot be written to
    except _DAMAGE as error:
        raise CorruptVideoError(f"{path}: frame 0 cannot be decoded: {error}") from error
    return pixels


def _open(path: Path) -> Image.Image:
    Image.init()  # registers all formats, once
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])


def on_black(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels composited on black: colour times alpha, rounded."""
    colour = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (colour // 255).astype(np.uint8)
