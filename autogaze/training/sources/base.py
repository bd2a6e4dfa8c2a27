"""What all datasets can be told."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from autogaze.datasets.clip import NamedClips
from autogaze.datasets.labels import LabelFile
from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.training.greedy_labels import GreedyLabelled, GreedyOptions


@dataclass(frozen=True)
class LabelPaths:
    """`gazing_labels.json` files of either split."""

    train: str | None = None
    val: str | None = None

    def load(self, split: str, num_patches: int) -> LabelFile | None:
        """The labels of a split, if there are any."""
        path = self.train if split == "train" else self.val
        return None if path is None else LabelFile.load(path, num_patches)


@dataclass(frozen=True)
class ClipSource(ABC):
    """What all datasets can be told.

    Args:
        clip_len: frames of a clip.
        gt_gazing_pos_paths: label files; clips without a label are left out.
        greedy_labels: label the clips of a split without a label file while they are read
            (see `GreedyOptions`).
        max_unreadable: share of clips that may be unreadable before training fails.
        seed: of what is drawn; the trainer's by default.
    """

    clip_len: int = 16
    gt_gazing_pos_paths: LabelPaths = field(default_factory=LabelPaths)
    greedy_labels: GreedyOptions | None = None
    max_unreadable: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.clip_len < 1:
            raise TrainingError(f"dataset.clip_len must be at least 1, got {self.clip_len}")
        if not 0 <= self.max_unreadable <= 1:
            raise TrainingError(
                f"dataset.max_unreadable must lie in [0, 1], got {self.max_unreadable}"
            )

    @abstractmethod
    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """The clips of `train` or `val`, labelled as the options say.

        Args:
            seed: where the options name none.

        Raises:
            TrainingError: there are none, or labels that do not fit.
        """

    @abstractmethod
    def members(self) -> "Sequence[SingleSource]":
        """The datasets that this one mixes; itself if it mixes none."""

    @abstractmethod
    def labelled(self) -> bool:
        """Whether training clips have gaze labels."""

    @abstractmethod
    def has_split(self, split: str) -> bool:
        """Whether there are clips of this split, as far as can be said without reading any."""


@dataclass(frozen=True)
class SingleSource(ClipSource):
    """A dataset that mixes no others."""

    def clips(self, split: str, pyramid: PatchPyramid, seed: int) -> Dataset:
        """See `ClipSource`."""
        seed = seed if self.seed is None else self.seed
        labels = self.gt_gazing_pos_paths.load(split, pyramid.num_patches)
        clips = self.read(split, pyramid, seed, labels)
        if labels is not None or self.greedy_labels is None:
            return clips
        return GreedyLabelled(clips, pyramid, self.greedy_labels, seed=seed)

    @abstractmethod
    def read(
        self, split: str, pyramid: PatchPyramid, seed: int, labels: LabelFile | None = None
    ) -> NamedClips:
        """The clips, with the labels of a file or without any."""

    def to_label(self, split: str, pyramid: PatchPyramid, seed: int) -> NamedClips:
        """The clips that a label file can name: those of epoch 0, without labels.

        Raises:
            TrainingError: there are none, or they are not the same in every epoch.
        """
        return self.read(split, pyramid, seed if self.seed is None else self.seed)

    def members(self) -> "Sequence[SingleSource]":
        """See `ClipSource`."""
        return [self]

    def labelled(self) -> bool:
        """See `ClipSource`."""
        return self.greedy_labels is not None or self.gt_gazing_pos_paths.train is not None

    def has_split(self, split: str) -> bool:
        """See `ClipSource`."""
        return True

    def shape(self, given: Mapping[str, Any], side: int, group: str) -> dict[str, Any]:
        """Options of a group that says how drawn clips look, with their length and size.

        Raises:
            TrainingError: the group says these itself, though they follow from others.
        """
        for name, origin in (("clip_len", "dataset.clip_len"), ("side", "model.scales")):
            if name in given:
                raise TrainingError(f"{group}.{name} follows from {origin}: leave it out")
        return {**given, "clip_len": self.clip_len, "side": side}


def split_seed(seed: int, split: str) -> int:
    """Drawn validation clips must not be training clips."""
    return seed if split == "train" else seed + 1_000_003
