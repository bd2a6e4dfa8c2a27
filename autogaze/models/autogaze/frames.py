"""Frames in the forms that image processors take: PIL images, arrays, tensors, and lists of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from autogaze.errors import SelectorError


@dataclass(frozen=True)
class Frame:
    """One RGB frame.

    Attributes:
        pixels: (H, W, 3), uint8 or finite floats.
        channels_first: whether it was given as (3, H, W).
    """

    pixels: np.ndarray
    channels_first: bool


def read_videos(videos: Any, data_format: str | None = None) -> list[list[Frame]]:
    """One frame, a video, or several videos, as a list of videos.

    Args:
        videos: a PIL image or an array (H, W, 3) or (3, H, W); a list of them, or an array with one
            axis more; a list of such, or an array with two.
        data_format: "channels_first" or "channels_last"; None tells it from shapes, where a frame
            of (3, W, 3) has its channels first.

    Raises:
        SelectorError: no frames, or frames of another kind.
    """
    videos = _as_array(videos)
    if isinstance(videos, Image.Image):
        return [[_frame(videos, data_format)]]
    if isinstance(videos, np.ndarray):
        if videos.ndim not in (3, 4, 5):
            raise _not_a_frame(videos)
        nested = videos[(None,) * (5 - videos.ndim)]  # (B, T, ...)
        return [[_frame(frame, data_format) for frame in _some(video)] for video in _some(nested)]
    if isinstance(videos, str | bytes | dict) or not isinstance(videos, Iterable):
        raise _not_a_frame(videos)
    parts = [_as_array(part) for part in videos]
    if all(_is_frame(part) for part in _some(parts)):
        return [[_frame(part, data_format) for part in parts]]
    return [clip for part in parts for clip in _clip(part, data_format)]


def _clip(video: Any, data_format: str | None) -> list[list[Frame]]:
    """One video among several, as a list of one."""
    if _is_frame(video):
        raise SelectorError("a list of frames and videos mixed; give one video or a list of videos")
    if isinstance(video, np.ndarray) and video.ndim != 4:
        raise _not_a_frame(video)
    read = read_videos(video, data_format)
    if len(read) != 1:
        raise SelectorError("videos are nested too deeply: give a list of lists of frames")
    return read


def _some(parts: Any) -> Any:
    """`parts`, unless there are none."""
    if len(parts) == 0:
        raise SelectorError("no frames to preprocess")
    return parts


def _as_array(value: Any) -> Any:
    """Tensors as arrays, all else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    # NumPy has no bfloat16.
    return (value.float() if value.is_floating_point() else value).numpy()


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim <= 3)


def _frame(frame: Any, data_format: str | None) -> Frame:
    if isinstance(frame, Image.Image):
        if data_format == "channels_first":
            raise SelectorError('PIL images have no input_data_format="channels_first"')
        return Frame(np.asarray(frame.convert("RGB")), channels_first=False)
    if frame.ndim != 3 or 0 in frame.shape:
        raise _not_a_frame(frame)
    first = frame.shape[0] == 3 if data_format is None else data_format == "channels_first"
    if frame.shape[0 if first else 2] != 3:
        raise _not_a_frame(frame)
    pixels = frame.transpose(1, 2, 0) if first else frame
    if pixels.dtype != np.uint8:
        pixels = _checked(pixels)
    return Frame(pixels, first)


def _checked(pixels: np.ndarray) -> np.ndarray:
    """Integers in [0, 255] as uint8, finite floats in single precision at least."""
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise SelectorError("frames have NaN or infinite values")
        return pixels.astype(np.promote_types(pixels.dtype, np.float32), copy=False)
    if pixels.dtype.kind not in "iu":
        raise _not_a_frame(pixels)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 255:
        raise SelectorError(f"integer frames must lie in [0, 255], got {low} to {high}")
    return pixels.astype(np.uint8)


def _not_a_frame(value: Any) -> SelectorError:
    got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    return SelectorError(
        "expected frames as PIL images or arrays of (height, width, 3) or (3, height, width), "
        f"lists of frames, or lists of those; got {got}"
    )
