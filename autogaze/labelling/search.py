"""What every greedy search promises: frame after frame, patch after patch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.greedy_search import UNITS, Search, atoms_of
from autogaze.reconstruction.resample import scale_views


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


# The greedy search with the canvas as its judge: exact, on sums over atoms.


class CanvasSearcher(Searcher):
    """Judges by mean |canvas - frame|; see `autogaze.selectors.greedy` for how.

    Args:
        pyramid: the patches to choose from.
        softness: above 0, labels come with targets: exp(-(best gain - gain) / (softness *
            best gain)) of every patch, normalised. The search has all gains anyway, and
            where many patches are about as good, the best of them alone says little.
    """

    def __init__(self, pyramid: PatchPyramid | None = None, softness: float = 0.0) -> None:
        self.pyramid = pyramid or PatchPyramid()
        self.softness = softness

    @property
    def identity(self) -> str:
        return "canvas"

    def start(self, frames: UInt8[Tensor, "T 3 S S"]) -> ClipSearch:
        return _CanvasClip(self, frames.float().div_(255))

    def follow(self, frames: UInt8[Tensor, "T 3 S S"], ids: Sequence[Sequence[int]]) -> GazeLabels:
        """What there is to say of a gaze that somebody else made.

        Args:
            ids: of every frame, numbered from its start, in the order chosen, none twice.

        Returns:
            The same gaze with its losses, and in the targets what the search would have
            taken in the place of each patch, after those before it.
        """
        clip = _CanvasClip(self, frames.float().div_(255))
        return join_frames([clip.follow(own) for own in ids])


class _CanvasClip(ClipSearch):
    def __init__(self, searcher: CanvasSearcher, frames: Float[Tensor, "T 3 S S"]) -> None:
        self.searcher = searcher
        self.frames = iter(frames)
        self.canvas = Canvas(searcher.pyramid, 1)

    def frame(self, count: int) -> FrameLabels:
        return self._frame([None] * count)

    def follow(self, ids: Sequence[int]) -> FrameLabels:
        """The next frame, where others choose."""
        return self._frame(ids)

    def _frame(self, patches: Sequence[int | None]) -> FrameLabels:
        """Take one patch after the other, the best one in the place of None."""
        pyramid = self.searcher.pyramid
        frame = next(self.frames)
        views = scale_views(frame[None], pyramid)
        # What every view, and what the canvas shows now, get wrong.
        wrong = (torch.cat([views[0], self.canvas.frames]) - frame).abs_()
        atoms = atoms_of(pyramid)
        errors = np.rint(atoms.sums(wrong).double().numpy().T * UNITS)  # (A, levels + 1)
        search = Search(atoms, errors[:, :-1].copy(), errors[:, -1].copy())
        losses: list[float] = []
        targets: list[Float[np.ndarray, " V"]] = []
        softness = self.searcher.softness
        for patch in patches:
            if softness > 0:
                targets.append(shares(search.gains[: pyramid.num_patches], softness))
            self.searcher.num_reconstructions += pyramid.num_patches - len(search.chosen)
            search.take(search.best()[0] if patch is None else patch)
            losses.append(search.error / (frame.numel() * UNITS))
        mask = torch.zeros(1, pyramid.num_patches, dtype=torch.bool)
        mask[0, search.chosen] = True
        self.canvas.paint(views, mask)
        known = torch.from_numpy(np.stack(targets)).float() if targets else None
        return FrameLabels(tuple(search.chosen), tuple(losses), known)


def shares(gains: Float[np.ndarray, " V"], softness: float) -> Float[np.ndarray, " V"]:
    """How good each patch would be: even among the best where none gains anything."""
    best = gains.max()
    if best <= 0:
        weights = (gains == best).astype(float)
    else:
        weights = np.exp(np.maximum((gains - best) / (softness * best), -60.0))
        weights[np.isneginf(gains)] = 0  # taken already
    return weights / weights.sum()
