"""Preprocessing of one frame: resizing, cropping, rescaling, normalisation."""

from collections.abc import Mapping, Sequence
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
