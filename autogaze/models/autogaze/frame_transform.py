"""Frames for `AutoGazeImageProcessor`: their forms (PIL images, arrays, tensors, lists), and what is done to each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers.image_transforms import center_crop, rescale, to_pil_image

from autogaze.checks import is_finite
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


@dataclass(frozen=True)
class FrameTransform:
    """Transformation of a frame by the arguments of `AutoGazeImageProcessor`, which are checked.

    Args: as of `AutoGazeImageProcessor`. Sizes become dicts, means and deviations floats.

    Raises:
        SelectorError: a value that makes no sense.
    """

    do_resize: Any
    size: Any
    resample: Any
    do_center_crop: Any
    crop_size: Any
    do_rescale: Any
    rescale_factor: Any
    offset: Any
    do_normalize: Any
    image_mean: Any
    image_std: Any

    def __post_init__(self) -> None:
        for name in ("do_resize", "do_center_crop", "do_rescale", "offset", "do_normalize"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise SelectorError(f"{name} must be True or False, got {getattr(self, name)!r}")
        try:
            filter_ = Image.Resampling(self.resample)
        except ValueError:
            known = ", ".join(f"{each.value} ({each.name.lower()})" for each in Image.Resampling)
            raise SelectorError(f"resample must be one of {known}, got {self.resample!r}") from None
        object.__setattr__(self, "resample", filter_)
        object.__setattr__(self, "size", _size("size", self.size, number="shortest_edge"))
        crop_size = _size("crop_size", self.crop_size, number="square")
        if "shortest_edge" in crop_size:
            raise SelectorError(f'crop_size must be {{"height": h, "width": w}}, got {crop_size}')
        object.__setattr__(self, "crop_size", crop_size)
        if not is_finite(self.rescale_factor):
            raise SelectorError(f"rescale_factor must be a number, got {self.rescale_factor!r}")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name)))
        if 0 in np.atleast_1d(self.image_std):
            raise SelectorError(f"image_std must not be 0, got {self.image_std}")

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3), preprocessed: float32, or of its own type where no value is changed."""
        if self.do_resize:
            frame = _resized(frame, self.size, self.resample)
        if self.do_center_crop:
            size = (self.crop_size["height"], self.crop_size["width"])
            frame = center_crop(frame, size, input_data_format="channels_last")
        if not (self.do_rescale or self.do_normalize):
            return frame
        if self.do_rescale:
            frame = np.multiply(frame, self.rescale_factor, dtype=np.float64)
        values = frame.astype(np.float32)
        if self.do_rescale and self.offset:
            values -= 1
        if self.do_normalize:
            mean, std = np.float32(self.image_mean), np.float32(self.image_std)
            values = (values - mean) / std
        return values


def _per_channel(name: str, values: Any) -> float | list[float]:
    """A number for all channels, or three."""
    if isinstance(values, np.ndarray | Tensor):
        values = values.tolist()
    if is_finite(values):
        return float(values)
    if isinstance(values, list | tuple) and len(values) == 3 and all(map(is_finite, values)):
        return [float(value) for value in values]
    raise SelectorError(f"{name} must be a number or one for each of 3 channels, got {values!r}")


def _size(name: str, size: Any, *, number: str) -> dict[str, int]:
    if isinstance(size, Integral) and not isinstance(size, bool):
        size = {"shortest_edge": size} if number == "shortest_edge" else [size, size]
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    try:
        given = {key: value for key, value in dict(size).items() if value is not None}
    except (TypeError, ValueError):
        given = {}
    if set(given) not in ({"shortest_edge"}, {"height", "width"}) or not all(
        isinstance(value, Integral) and int(value) >= 1 for value in given.values()
    ):
        raise SelectorError(
            f'{name} must be {{"shortest_edge": n}} or {{"height": h, "width": w}}, got {size}'
        )
    return {key: int(value) for key, value in given.items()}


def _resized(frame: np.ndarray, size: Mapping[str, int], resample: Image.Resampling) -> np.ndarray:
    """A frame (H, W, 3) at another size, of the same kind of values."""
    height, width = frame.shape[:2]
    if "shortest_edge" in size:
        short = size["shortest_edge"]
        if width <= height:
            target = (int(short * height / width), short)
        else:
            target = (short, int(short * width / height))
    else:
        target = (size["height"], size["width"])
    levels = frame.dtype == np.uint8
    if levels and target == (height, width):
        return frame
    if levels or _fits_8_bits(frame):
        shares = not (
            levels or np.allclose(frame, frame.astype(int))
        )  # of 255, as transformers tells
        image = to_pil_image(frame, do_rescale=shares, input_data_format="channels_last")
        values = np.array(_in_two_passes(image, target, resample))
        return rescale(values, 1 / 255) if shares else values
    planes = [
        _in_two_passes(Image.fromarray(plane), target, resample)
        for plane in frame.astype(np.float32).transpose(2, 0, 1)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _in_two_passes(
    image: Image.Image, target: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """An image of `target` height and width, the same whichever Pillow is installed.

    Pixels are rounded between the passes, so their order shows. Pillow 13 resizes vertically first
    where the height loses more than twice what the width does; versions before never do.
    """
    height, width = target
    if image.height - height > max(0, 2 * (image.width - width)):
        image = image.resize((image.width, height), resample)
    return image.resize((width, height), resample)


def _fits_8_bits(frame: np.ndarray) -> bool:
    """Whether floats are what transformers resizes: shares in [0, 1], or whole levels up to 255."""
    low, high = float(frame.min()), float(frame.max())
    return low >= 0 and (high <= 1 or (high <= 255 and bool((frame == np.round(frame)).all())))
