"""Clips of any map-style dataset of PyTorch, for datasets from outside the package."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.errors import TrainingError


class PlainClips(NamedClips):
    """A dataset that is indexed by numbers, as one of named clips.

    Items are `TrainingClip` or `UnreadableClip`, or dicts with `video`, (T, 3, S, S) as uint8 or as
    floats in [0, 1]; a `name` where they have one; everything else is `extra` of the clip.

    Args:
        dataset: with `len` and items; the same ones in every epoch.
        clip_len, side: that its clips must have.

    Raises:
        TrainingError: a dataset without items, and, when one is read, an item of another form.
    """

    def __init__(self, dataset: Any, clip_len: int, side: int) -> None:
        self.dataset, self.shape = dataset, (clip_len, 3, side, side)
        self.kind = type(dataset).__name__
        if not hasattr(dataset, "__len__") or not len(dataset):
            raise TrainingError(f"dataset: {self.kind} has no clips")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        number = ClipKey.of(key).number
        item: Any = self.dataset[number]
        if isinstance(item, Mapping):
            item = self._clip(dict(item), number)
        if isinstance(item, UnreadableClip):
            return item
        if not isinstance(item, TrainingClip):
            raise TrainingError(
                f"item {number} of {self.kind} must be a TrainingClip or a dict with 'video', got "
                f"{type(item).__name__}"
            )
        if tuple(item.frames.shape) != self.shape:
            raise TrainingError(
                f"clips must be of dataset.clip_len and model.scales, {self.shape}, got "
                f"{tuple(item.frames.shape)} of {item.name} ({self.kind})"
            )
        return item

    def name(self, number: int) -> str:
        return f"{self.kind}/{number}"

    def _clip(self, item: dict[str, Any], number: int) -> TrainingClip:
        if "video" not in item:
            raise TrainingError(f"item {number} of {self.kind} has no 'video', but {sorted(item)}")
        frames = _bytes(torch.as_tensor(item.pop("video")), f"item {number} of {self.kind}")
        return TrainingClip(frames, str(item.pop("name", self.name(number))), extra=item)


def _bytes(video: Tensor, what: str) -> UInt8[Tensor, "..."]:
    if video.dtype == torch.uint8:
        return video
    if not video.is_floating_point() or not bool((video >= 0).all() & (video <= 1).all()):
        raise TrainingError(
            f"{what}: 'video' must be uint8, or floats in [0, 1], not normalised further; got "
            f"{video.dtype} from {float(video.min()):.3g} to {float(video.max()):.3g}"
        )
    return (video * 255).round().to(torch.uint8)
