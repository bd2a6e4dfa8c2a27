"""What every greedy search promises: frame after frame, patch after patch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.geometry import PatchPyramid


@dataclass(frozen=True)
class FrameLabels:
    """What was chosen in one frame.

    Attributes:
        ids: in the order chosen.
        losses: of this frame, after each of them.
        targets: see `GazeLabels`.
    """

    ids: tuple[int, ...]
    losses: tuple[float, ...]
    targets: Float[Tensor, "n V"] | None = None


class State(NamedTuple):
    """A moment of a search: so many patches of a frame, and all of those before, are chosen."""

    frame: int
    picked: int


class ClipSearch(ABC):
    """The search in one clip, whose frames come one after the other."""

    @abstractmethod
    def frame(self, count: int) -> FrameLabels:
        """Choose `count` patches of the next frame.

        Each time the one, of all not yet chosen, with which the reconstruction of this
        frame has the least loss; the lowest id of several.
        """


class Searcher(ABC):
    """Searches clips with one judge.

    Attributes:
        pyramid: the patches to choose from.
        num_reconstructions: that were judged so far.
        seconds_labelling: that took `label` so far.
    """

    pyramid: PatchPyramid
    num_reconstructions: int = 0
    seconds_labelling: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the judge is."""
        return torch.device("cpu")

    def num_candidates(self, picked: int) -> int:
        """Reconstructions that the next patch of a frame costs, after so many."""
        return self.pyramid.num_patches - picked

    def precision(self) -> AbstractContextManager[object]:
        """Inside of which the judge is asked."""
        return nullcontext()

    @property
    @abstractmethod
    def identity(self) -> str:
        """The judge and its weights: labels of one file must share it."""

    @abstractmethod
    def start(self, frames: UInt8[Tensor, "T 3 S S"]) -> ClipSearch:
        """The search in a clip."""

    def seconds(
        self,
        frames: UInt8[Tensor, "T 3 S S"],
        ids: Sequence[Sequence[int]],
        states: Sequence[State],
    ) -> float:
        """Mean seconds of a reconstruction, in these states of a search that chooses `ids`.

        Searches that are fast enough run through the whole clip instead.
        """
        self.num_reconstructions = 0
        began = time.perf_counter()
        self.label(frames, [len(chosen) for chosen in ids])
        return (time.perf_counter() - began) / self.num_reconstructions

    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        """Labels of a clip, with so many patches in each frame."""
        began = time.perf_counter()
        search = self.start(frames)
        found = [search.frame(count) for count in counts]
        self.seconds_labelling += time.perf_counter() - began
        return join_frames(found)


def join_frames(frames: Sequence[FrameLabels]) -> GazeLabels:
    """The labels of a clip."""
    targets = [labels.targets for labels in frames if labels.targets is not None]
    return GazeLabels(
        tuple(labels.ids for labels in frames),
        tuple(labels.losses for labels in frames),
        torch.cat(targets) if targets else None,
    )
