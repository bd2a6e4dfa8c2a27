"""Preprocessing of RGB frames: resizing and normalisation as in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.utils.normalization import IMAGENET


class AutoGazeImageProcessor(BaseImageProcessor):
    """Resize, scale to [-1, 1], and normalise by ImageNet's statistics on top of that.

    Args:
        size: {"shortest_edge": n} keeps the aspect ratio, {"height": h, "width": w}
            does not; a number means the shortest edge, a pair height and width.
        image_mean, image_std: of the values in [-1, 1], one per channel.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self,
        size: dict[str, int] | int | Sequence[int] | None = None,
        do_resize: bool = True,
        do_rescale: bool = True,
        do_normalize: bool = True,
        image_mean: Sequence[float] = IMAGENET.mean,
        image_std: Sequence[float] = IMAGENET.std,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = _size({"shortest_edge": 224} if size is None else size)
        self.do_resize = do_resize
        self.do_rescale = do_rescale
        self.do_normalize = do_normalize
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def preprocess(
        self,
        images: Any,
        size: dict[str, int] | int | Sequence[int] | None = None,
        do_resize: bool | None = None,
        do_rescale: bool | None = None,
        do_normalize: bool | None = None,
        return_tensors: str | None = None,
        **ignored: Any,
    ) -> BatchFeature:
        """Frames to `pixel_values`.

        Args:
            images: one frame, a list or array of frames (a video), or a list of
                videos; a frame is a PIL image or uint8 RGB (H, W, 3).
            return_tensors: "pt" for a tensor, else a numpy array.

        Returns:
            pixel_values of shape (T, 3, h, w), or (B, T, 3, h, w) for several videos.
        """
        target = self.size if size is None else _size(size)
        videos, many = _videos(images)
        resize = self.do_resize if do_resize is None else do_resize
        rescale = self.do_rescale if do_rescale is None else do_rescale
        normalize = self.do_normalize if do_normalize is None else do_normalize
        pixels = [
            self._frames(
                [_resized(frame, target) if resize else frame for frame in video],
                rescale,
                normalize,
            )
            for video in videos
        ]
        values = torch.stack(pixels) if many else pixels[0]
        return BatchFeature({"pixel_values": values if return_tensors == "pt" else values.numpy()})

    def _frames(self, frames: list[Image.Image], rescale: bool, normalize: bool) -> Tensor:
        array = np.stack([np.asarray(frame, dtype=np.float32) for frame in frames])
        values = torch.from_numpy(array).permute(0, 3, 1, 2)
        if rescale:
            values = values / 127.5 - 1
        if normalize:
            values = (values - _channels(self.image_mean)) / _channels(self.image_std)
        return values.contiguous()


def normalise(frames: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Normalise float frames in [0, 1] that are already resized, as `AutoGazeImageProcessor` does."""
    mean, std = _channels(IMAGENET.mean).to(frames), _channels(IMAGENET.std).to(frames)
    return frames * (2 / std) - (1 + mean) / std


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def _size(size: Any) -> dict[str, int]:
    if isinstance(size, int):
        return {"shortest_edge": size}
    if isinstance(size, Sequence) and len(size) == 2:
        return {"height": int(size[0]), "width": int(size[1])}
    try:
        given = dict(size)
    except (TypeError, ValueError):
        given = {}
    if set(given) not in ({"shortest_edge"}, {"height", "width"}) or min(given.values()) < 1:
        raise SelectorError(
            f'size must be {{"shortest_edge": n}} or {{"height": h, "width": w}}, got {size}'
        )
    return {key: int(value) for key, value in given.items()}


def _resized(frame: Image.Image, size: dict[str, int]) -> Image.Image:
    width, height = frame.size
    if "shortest_edge" in size:
        short = size["shortest_edge"]
        if width <= height:
            target = (short, int(short * height / width))
        else:
            target = (int(short * width / height), short)
    else:
        target = (size["width"], size["height"])
    return frame if target == frame.size else frame.resize(target, Image.Resampling.BILINEAR)


def _videos(images: Any) -> tuple[list[list[Image.Image]], bool]:
    """Lists of frames, and whether several videos were given."""
    if isinstance(images, Image.Image):
        return [[_frame(images)]], False
    if isinstance(images, np.ndarray | Tensor):
        images = np.asarray(images)
        if images.ndim == 3:
            return [[_frame(images)]], False
    if len(images) == 0:
        raise SelectorError("no frames to preprocess")
    first = images[0]
    if isinstance(first, Image.Image) or np.ndim(first) == 3:
        return [[_frame(frame) for frame in images]], False
    return [[_frame(frame) for frame in video] for video in images], True


def _frame(frame: Any) -> Image.Image:
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise SelectorError(
            f"expected PIL images or uint8 (height, width, 3), got {array.dtype} {array.shape}"
        )
    return Image.fromarray(array)


AutoImageProcessor.register(
    AutoGazeConfig, slow_image_processor_class=AutoGazeImageProcessor, exist_ok=True
)
