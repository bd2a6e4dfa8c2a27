"""Reading still images, as videos of one frame, and the animations and pages that Pillow knows.

Pillow reads them rather than FFmpeg, which hides truncated JPEGs, mistakes CMYK for transparency,
reads no animated WebP, and of an AVIF or a TIFF only the first picture. GIF, animated PNG, motion
JPEG and PPM of several pictures are left to FFmpeg.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from autogaze.clips import on_black
from autogaze.errors import CorruptVideoError, VideoError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Formats that Pillow reads, HEIF with pillow-heif."""

PAGES_PER_SECOND = 25
"""Rate at which the pages of a TIFF are shown, which has no times; a still image lasts one."""

MOTION_JPEG = (".mjpeg", ".mjpg")
"""Suffixes of streams of JPEGs; of other JPEGs, what a camera stores behind the first is no later frame."""

_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error),
    RuntimeError,  # of AVIF's decoder
)
"""Errors that Pillow's plugins raise on damaged files."""

_ORIENTATION = 0x0112  # the EXIF tag, and the degrees its values stand for
_ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}
_SUBFILE, _BITS = 254, 258  # TIFF tags: the kind of a page, and its bits per sample


@dataclass(frozen=True)
class Still:
    """The header of one image file.

    Args:
        width, height: displayed pixels (EXIF orientation applied).
        rotation: degrees counter-clockwise from the stored to the displayed image.
        num_frames: pictures of an animation, or pages.
        duration: seconds of all of them together; None for one.
    """

    format: str
    mode: str
    width: int
    height: int
    rotation: int
    num_frames: int = 1
    duration: float | None = None


@dataclass(frozen=True, eq=False)
class Page:
    """One displayed picture of an image file, from `timestamp` on for `duration` seconds."""

    timestamp: float
    duration: float
    pixels: UInt8[np.ndarray, "H W 3"]


def still_header(path: Path) -> Still | None:
    """The header of an image file; None if it is no image, or an animation for FFmpeg."""
    try:
        with _open(path) as image:
            moves = getattr(image, "is_animated", False)
            if image.format == "PNG" and moves:
                return None
            if path.suffix.lower() in MOTION_JPEG or _another_follows(path, image):
                return None
            turn = image.getexif().get(_ORIENTATION, 1)
            width, height = image.size if turn < 5 else image.size[::-1]
            rotation = _ROTATIONS.get(turn, 0)
            kind, mode = str(image.format).lower(), image.mode
            times = _times(image) if moves else []
            last = sum(times[-1]) if len(times) > 1 else None
            return Still(kind, mode, width, height, rotation, max(1, len(times)), last)
    except VideoError:
        raise
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: {error}") from error
    except _DAMAGE:  # "no image that Pillow knows" is one of these
        return None


def read_pages(path: Path) -> Iterator[Page | CorruptVideoError]:
    """The displayed RGB pictures of an image file; transparent pixels are composited on black.

    Pages of another size than the first are resized to its size. What cannot be decoded is
    yielded as an error.

    Raises:
        VideoError: pixels of a kind that has no rule (floats outside [0, 1] and [0, 255]).
    """
    size: tuple[int, int] | None = None
    now, number, unit = 0.0, 0, None
    try:
        with _open(path) as image:
            for place in _places(image):
                image.seek(place)
                image.load()
                stored = ImageOps.exif_transpose(image)
                if stored.mode == "F" and unit is None:
                    unit = _unit(stored, path)
                if size is not None and stored.size != size:
                    stored = stored.resize(size, Image.Resampling.BILINEAR)
                size = stored.size
                pixels = _rgb(stored, path, unit or 1.0, _depth(image))
                start, duration = _time(image, now)
                yield Page(start, duration, pixels)
                now, number = start + duration, number + 1
    except VideoError:
        raise
    except _DAMAGE as error:
        yield CorruptVideoError(f"{path}: frame {number} cannot be decoded: {error}")


def read_first(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """The displayed RGB pixels of an image, or of the first picture of several.

    Raises:
        CorruptVideoError: the file is truncated or damaged.
        VideoError: see `read_pages`.
    """
    page = next(read_pages(path))
    if isinstance(page, CorruptVideoError):
        raise page
    return page.pixels


def _rgb(image: Image.Image, path: Path, unit: float, depth: int) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not (values.min() >= 0 and values.max() <= 255 / unit):  # also if they are no numbers
            raise _no_range(values, path)
        return _grey(values * unit)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 where it should be scaled.
        values = np.asarray(image, dtype=np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise VideoError(
                f"{path}: has grey values from {values.min():g} to {values.max():g}, expected 8 "
                "or 16 bits without a sign; convert it to one of these"
            )
        return _grey(values * 255 / (2**depth - 1))
    if image.has_transparency_data:
        return on_black(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))  # a copy: Pillow's own cannot be written to


def _grey(values: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    return np.repeat(values.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _unit(image: Image.Image, path: Path) -> float:
    """Grey levels per unit of a float image, in [0, 1] or else in [0, 255] as they are."""
    values = np.asarray(image, dtype=np.float64)
    if not (values.min() >= 0 and values.max() <= 255):
        raise _no_range(values, path)
    return 255.0 if values.max() <= 1 else 1.0


def _no_range(values: np.ndarray, path: Path) -> VideoError:
    return VideoError(
        f"{path}: has float pixels from {values.min():g} to {values.max():g}, expected values in "
        "[0, 1] or [0, 255]; scale them"
    )


def _depth(image: Image.Image) -> int:
    """Bits of a grey image that is wider than 8."""
    tags = getattr(image, "tag_v2", None) or {}
    bits = tags.get(_BITS, (16,))
    return bits[0] if isinstance(bits, tuple) and bits[0] in range(9, 17) else 16


def _another_follows(path: Path, image: Image.Image) -> bool:
    """Whether a second picture follows in a PPM, PGM or PBM."""
    if image.format != "PPM":
        return False
    with path.open("rb") as file:
        header = file.read(image.tile[0][2])  # type: ignore[attr-defined]
        if (kind := header[:2]) not in (b"P4", b"P5", b"P6"):
            return False
        width = image.width * (3 if kind == b"P6" else 1)
        row = (
            -(-width // 8) if kind == b"P4" else width * (2 if int(header.split()[-1]) > 255 else 1)
        )
        file.seek(row * image.height, os.SEEK_CUR)
        return file.read(16).lstrip()[:2] == kind


def _places(image: Image.Image) -> list[int]:
    """Numbers of the pictures to show: all of an animation, and no thumbnails among pages."""
    if not getattr(image, "is_animated", False) or image.format in ("MPO", "HEIF"):
        return [image.tell()]  # other pictures of a camera are no later ones
    places = []
    for place in range(getattr(image, "n_frames", 1)):
        if image.format == "TIFF":
            image.seek(place)
            if place and image.tag_v2.get(_SUBFILE, 0) & 1:  # type: ignore[attr-defined]
                continue
        places.append(place)
    return places


def _time(image: Image.Image, now: float) -> tuple[float, float]:
    """Start and duration in seconds of the picture just loaded; `now` is the end of the one before."""
    if image.format not in ("WEBP", "AVIF") or not getattr(image, "is_animated", False):
        return now, 1 / PAGES_PER_SECOND
    start, duration = image.info.get("timestamp"), image.info.get("duration", 0)
    seconds = max(1, duration) / 1000
    if start is None or start / 1000 < now - 5e-4:  # after a picture of no duration
        return now, seconds
    return start / 1000, seconds


def _times(image: Image.Image) -> list[tuple[float, float]]:
    """Start and duration of every picture."""
    times: list[tuple[float, float]] = []
    for place in _places(image):
        image.seek(place)
        if image.format in ("WEBP", "AVIF"):
            image.load()
        times.append(_time(image, sum(times[-1]) if times else 0.0))
    return times


def _open(path: Path) -> Image.Image:
    Image.init()  # registers all formats, once
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            pass
        else:
            pillow_heif.register_heif_opener()
    return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
