"""Training clips, their labels, and batches of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid


class ClipKey(NamedTuple):
    """Index of a dataset's item, which determines all random numbers of the clip."""

    epoch: int
    number: int

    @classmethod
    def of(cls, key: "ClipKey | int") -> "ClipKey":
        """The key itself, or that of a number in epoch 0."""
        return key if isinstance(key, ClipKey) else cls(0, key)


@dataclass(frozen=True)
class GazeLabels:
    """Gaze labels of one clip.

    Attributes:
        ids: frame-relative patch ids of every frame, in the order chosen.
        losses: reconstruction loss of the frame after each id; empty where unknown.
        targets: for each of the N ids, a distribution over the V patches by their gains in its
            place; None where only the chosen patch is known. On the device that searched.
    """

    ids: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    targets: Float[Tensor, "N V"] | None = None


@dataclass(frozen=True)
class LabelRequest:
    """Labels of one clip that are still to be searched for (`autogaze.labelling.label`).

    Attributes:
        counts: number of patches in each frame.
        softness: of the targets; see `CanvasSearcher`.
    """

    pyramid: PatchPyramid
    counts: tuple[int, ...]
    softness: float = 0.0


@dataclass(frozen=True)
class LabelCoverage:
    """Number of clips (or videos) found, and of those with labels; the others are left out.

    Attributes:
        missing: the name of one without labels, if there is one.
    """

    file: str
    found: int
    labelled: int
    missing: str | None = None


Extra = Mapping[str, Any]
"""What tasks of one's own need beside the frames: of a clip, or collated of a batch."""


@dataclass(frozen=True)
class TrainingClip:
    """One clip.

    Attributes:
        frames: RGB.
        name: in label files.
        labels: where the dataset has some, or a request for them.
        extra: what a task needs beside the frames, such as a class; see `collate`.
    """

    frames: UInt8[Tensor, "T 3 S S"]
    name: str
    labels: GazeLabels | LabelRequest | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class UnreadableClip:
    """A clip that could not be read; it is reported and counted, not replaced by another."""

    name: str
    cause: str


class NamedClips(Dataset, ABC):
    """Base of the datasets whose clips have names in label files; indexed by `ClipKey`.

    Attributes:
        coverage: of the clips by the label file; None without one.
    """

    coverage: LabelCoverage | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips per epoch."""

    @abstractmethod
    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        """One clip."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Name of a clip of epoch 0."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T frames.

    Attributes:
        frames: RGB.
        labels: of the clips, or None where a clip has none.
        pending: labels and requests of the clips, where each has either and one has a request;
            `labels` is then None, until `autogaze.labelling.label.with_labels`.
        unreadable: clips that are missing from the batch.
        indices: of the clips in the whole batch of a step. What is random about a clip follows
            from its index, so it is the same however the batch is divided.
        extra: by name, tensors of B rows or tuples of B values.
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    names: tuple[str, ...]
    labels: tuple[GazeLabels, ...] | None = None
    unreadable: tuple[UnreadableClip, ...] = ()
    indices: tuple[int, ...] = ()
    extra: Extra = field(default_factory=dict)
    pending: tuple[GazeLabels | LabelRequest, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def rgb(self, device: torch.device | str = "cpu") -> Float[Tensor, "B T 3 S S"]:
        """Frames in [0, 1]."""
        return self.frames.to(device, non_blocking=True).float() / 255

    def gaze(self, pyramid: PatchPyramid) -> Gaze:
        """The labelled gazes.

        Raises:
            TrainingError: there are none.
        """
        if self.labels is None:
            raise TrainingError(
                f"{self.names[0] if self.names else 'the batch'}: no gaze labels; make some with "
                "`autogaze label` and name the file in dataset.gt_gazing_pos_paths"
            )
        frames = [frame for labels in self.labels for frame in labels.ids]
        ids = np.fromiter(chain.from_iterable(frames), np.int64, sum(map(len, frames)))
        lengths = [[len(frame) for frame in labels.ids] for labels in self.labels]
        return Gaze(pyramid, torch.from_numpy(ids), torch.tensor(lengths))

    def pin_memory(self) -> "ClipBatch":
        """The batch with its frames in page-locked memory."""
        return replace(self, frames=self.frames.pin_memory())

    def to(self, device: torch.device) -> "ClipBatch":
        """The batch with its frames and extra tensors on a device."""
        frames = self.frames.to(device, non_blocking=True)
        return replace(self, frames=frames, extra=extra_to(self.extra, device))


def collate(
    clips: Sequence[TrainingClip | UnreadableClip], indices: Sequence[int] | None = None
) -> ClipBatch:
    """Batch of the readable clips; the others are listed in `unreadable`.

    Of `extra`, numbers, arrays and tensors are stacked, and everything else is listed.

    Args:
        indices: of all of them in the whole batch of a step, of which they may be a part.

    Raises:
        TrainingError: clips of several lengths or sizes, or whose `extra` cannot be joined.
    """
    indices = range(len(clips)) if indices is None else indices
    read = [clip for clip in clips if isinstance(clip, TrainingClip)]
    labels = tuple(clip.labels for clip in read if isinstance(clip.labels, GazeLabels))
    asked = tuple(clip.labels for clip in read if clip.labels is not None)
    if read:
        shapes = {tuple(clip.frames.shape): clip.name for clip in read}
        if len(shapes) > 1:
            listed = ", ".join(f"{name} {shape}" for shape, name in shapes.items())
            raise TrainingError(f"clips of one batch must have one length and size, got {listed}")
        frames = torch.stack([clip.frames for clip in read])
    else:
        frames = torch.empty(0, 0, 3, 0, 0, dtype=torch.uint8)
    return ClipBatch(
        frames,
        tuple(clip.name for clip in read),
        labels if read and len(labels) == len(read) else None,
        tuple(clip for clip in clips if isinstance(clip, UnreadableClip)),
        tuple(i for i, clip in zip(indices, clips, strict=True) if isinstance(clip, TrainingClip)),
        collate_extra(read),
        asked if len(labels) < len(asked) == len(read) else None,
    )


def collate_extra(clips: Sequence[TrainingClip]) -> dict[str, Any]:
    """`extra` of a batch: by name, a tensor of B rows, or a tuple where values are no numbers.

    Raises:
        TrainingError: clips with other names than the first, or values of several shapes.
    """
    if not clips:
        return {}
    first = clips[0]
    for clip in clips:
        if clip.extra.keys() != first.extra.keys():
            raise TrainingError(
                f"clips of one batch must have the same extra values, got {sorted(first.extra)} of "
                f"{first.name} and {sorted(clip.extra)} of {clip.name}"
            )
    return {name: _joined(name, [clip.extra[name] for clip in clips]) for name in first.extra}


def _joined(name: str, values: list[Any]) -> Any:
    if not all(isinstance(value, bool | int | float | np.ndarray | Tensor) for value in values):
        return tuple(values)
    tensors = [torch.as_tensor(value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise TrainingError(f"extra value {name!r} has several shapes in one batch: {shapes}")
    return torch.stack(tensors)


def extra_to(extra: Extra, device: torch.device) -> dict[str, Any]:
    """The same with tensors on a device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in extra.items()}


def repeat_extra(extra: Extra, times: int) -> dict[str, Any]:
    """`extra` of a batch whose clips are repeated, repetition by repetition."""
    return {
        k: torch.cat([v] * times) if isinstance(v, Tensor) else v * times for k, v in extra.items()
    }
