"""Clips of any map-style dataset of PyTorch, for datasets from outside the package."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.datasets.clip import (
    ClipKey,
    GazeLabels,
    NamedClips,
    TrainingClip,
    UnreadableClip,
)
from autogaze.datasets.labels import parse_labels
from autogaze.errors import TrainingError
from autogaze.utils.normalization import IMAGENET

ROUNDING = 1 / 255
"""By which the pixels of frames that were normalised, and changed since, may leave [0, 1]."""


class PlainClips(NamedClips):
    """A dataset that is indexed by numbers, as one of named clips.

    Items are `TrainingClip` or `UnreadableClip`, or dicts with `video`, (T, 3, S, S) as uint8 or as
    floats in [0, 1]; a `name` where they have one; everything else is `extra` of the clip.

    Items of the published package's datasets are such dicts, whose `video` is normalised for the
    selector. Of these, `video_path` is the name, clips whose `is_valid` is false are unreadable, and
    `gt_gazing_info`, where it isn't empty, holds the clip's labels in the form of label files.

    Args:
        dataset: with `len` and items; the same ones in every epoch.
        clip_len, side: that its clips must have.
        normalised: floats are normalised as `AutoGazeImageProcessor` does.
        num_patches: per frame, which the ids of labels are numbered by; None leaves labels out.
        keeps_task_video: `video_for_task` is what the task's own `transform` made of the frames.
            Otherwise it is left out, and made when the task is called.

    Raises:
        TrainingError: a dataset without items, and, when one is read, an item of another form.
    """

    def __init__(
        self,
        dataset: Any,
        clip_len: int,
        side: int,
        *,
        normalised: bool = False,
        num_patches: int | None = None,
        keeps_task_video: bool = False,
    ) -> None:
        self.dataset, self.shape = dataset, (clip_len, 3, side, side)
        self.normalised, self.num_patches = normalised, num_patches
        self.keeps_task_video = keeps_task_video
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

    def _clip(self, item: dict[str, Any], number: int) -> TrainingClip | UnreadableClip:
        what = f"item {number} of {self.kind}"
        name = str(item.pop("name", item.get("video_path", self.name(number))))
        if "is_valid" in item and not item["is_valid"]:
            return UnreadableClip(name, f"{what} says so: is_valid is false")
        if "video" not in item:
            raise TrainingError(f"{what} has no 'video', but {sorted(item)}")
        frames = _bytes(torch.as_tensor(item.pop("video")), what, self.normalised)
        labels = self._labels(item.pop("gt_gazing_info", None), what)
        if not self.keeps_task_video:
            item.pop("video_for_task", None)
        return TrainingClip(frames, name, labels, extra=item)

    def _labels(self, info: Any, what: str) -> GazeLabels | None:
        """Labels in the form of label files."""
        if not info or self.num_patches is None:
            return None
        labels = parse_labels(f"{what}, gt_gazing_info", info, self.num_patches)
        if len(labels.ids) != self.shape[0]:
            raise TrainingError(
                f"{what}, gt_gazing_info: must hold {self.shape[0]} frames, got {len(labels.ids)}"
            )
        return labels


def _bytes(video: Tensor, what: str, normalised: bool) -> UInt8[Tensor, "..."]:
    if video.dtype == torch.uint8:
        return video
    taken = "floats in [0, 1], not normalised further"
    if normalised and video.is_floating_point() and video.ndim == 4 and video.shape[1] == 3:
        video, taken = _pixels(video), "floats as gaze_transform makes them"
    if not video.is_floating_point() or not bool((video >= 0).all() & (video <= 1).all()):
        raise TrainingError(
            f"{what}: 'video' must be uint8, or {taken}; got {video.dtype}, pixels from "
            f"{float(video.min()):.3g} to {float(video.max()):.3g}"
        )
    return (video * 255).round().to(torch.uint8)


def _pixels(video: Float[Tensor, "T 3 S S"]) -> Float[Tensor, "T 3 S S"]:
    """Frames in [0, 1] of those normalised for the selector: scaled to [-1, 1], then by ImageNet's."""
    pixels = (IMAGENET.denormalise(video.float()) + 1) / 2
    near = bool((pixels >= -ROUNDING).all() & (pixels <= 1 + ROUNDING).all())
    return pixels.clamp(0, 1) if near else pixels
