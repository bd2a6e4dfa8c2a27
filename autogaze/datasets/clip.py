"""What training reads: clips of frames, alone and in batches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid


class ClipKey(NamedTuple):
    """Which clip a dataset shall give: everything random in it follows from these two."""

    epoch: int
    number: int

    @classmethod
    def of(cls, key: "ClipKey | int") -> "ClipKey":
        """A number alone is one of epoch 0."""
        return key if isinstance(key, ClipKey) else cls(0, key)


@dataclass(frozen=True)
class GazeLabels:
    """The gaze that a clip is labelled with.

    Attributes:
        ids: of every frame, numbered from the frame's start, in the order chosen.
        losses: of every frame, the loss left after each of them; empty where unknown.
        targets: (N, V) for every gaze in turn, how good each patch would have been in its
            place: shares that add up to 1; None where only the one chosen is known.
    """

    ids: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    targets: Float[Tensor, "N V"] | None = None


@dataclass(frozen=True)
class LabelCoverage:
    """How many of the clips (or videos) found a label file names; the others are left out.

    Attributes:
        file: the label file.
        found, labelled: how many there are, and how many of them have labels.
        missing: one that has none, where there is one.
    """

    file: str
    found: int
    labelled: int
    missing: str | None = None


@dataclass(frozen=True)
class TrainingClip:
    """One clip.

    Attributes:
        frames: (T, 3, S, S) RGB.
        name: the file's last three path parts, and which clip of it where there are several;
            or what made the clip.
        labels: where the dataset has some.
    """

    frames: UInt8[Tensor, "T 3 S S"]
    name: str
    labels: GazeLabels | None = None


@dataclass(frozen=True)
class UnreadableClip:
    """A clip that could not be read: reported and counted, never replaced by another."""

    name: str
    cause: str


class NamedClips(Dataset, ABC):
    """A dataset whose clips have names that label files know them by.

    Items are asked for by `ClipKey`; a number alone is one of epoch 0.

    Attributes:
        coverage: what their label file names of all that were found; None without one.
    """

    coverage: LabelCoverage | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Clips of an epoch."""

    @abstractmethod
    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        """One clip."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Of a clip of epoch 0."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips.

    Attributes:
        frames: (B, T, 3, S, S) RGB.
        names: one a clip.
        labels: one a clip, or None where any has none.
        unreadable: clips that are missing from the batch.
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    names: tuple[str, ...]
    labels: tuple[GazeLabels, ...] | None = None
    unreadable: tuple[UnreadableClip, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def rgb(self, device: torch.device | str = "cpu") -> Float[Tensor, "B T 3 S S"]:
        """Frames in [0, 1]."""
        return self.frames.to(device, non_blocking=True).float() / 255

    def gaze(self, pyramid: PatchPyramid) -> Gaze:
        """The labelled gazes.

        Raises:
            TrainingError: there are none, or they are of another pyramid.
        """
        if self.labels is None:
            raise TrainingError(
                f"{self.names[0] if self.names else 'the batch'}: no gaze labels; make some with "
                "`autogaze label` and name the file in dataset.gt_gazing_pos_paths"
            )
        ids = [ids for labels in self.labels for frame in labels.ids for ids in frame]
        lengths = [[len(frame) for frame in labels.ids] for labels in self.labels]
        return Gaze(pyramid, torch.tensor(ids, dtype=torch.long), torch.tensor(lengths))

    def pin_memory(self) -> "ClipBatch":
        """The same with frames that a GPU can fetch while it computes."""
        return replace(self, frames=self.frames.pin_memory())


def collate(clips: Sequence[TrainingClip | UnreadableClip]) -> ClipBatch:
    """Clips as a batch; the unreadable ones are listed beside it.

    Raises:
        TrainingError: clips of several lengths or sizes.
    """
    read = [clip for clip in clips if isinstance(clip, TrainingClip)]
    labels = [clip.labels for clip in read if clip.labels is not None]
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
        tuple(labels) if read and len(labels) == len(read) else None,
        tuple(clip for clip in clips if isinstance(clip, UnreadableClip)),
    )
