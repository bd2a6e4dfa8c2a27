"""Greedy label searches: frame after frame, patch after patch, the one that leaves the least loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import CanvasSearch


class Searcher(ABC):
    """A greedy search under one reconstruction metric.

    Attributes:
        pyramid: the patches to choose from.
    """

    pyramid: PatchPyramid

    @property
    @abstractmethod
    def identity(self) -> str:
        """The metric and its weights: labels of one file must share it."""

    @abstractmethod
    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        """Labels of a clip.

        Each patch is the one, of all not yet chosen, with which the reconstruction of its
        frame has the least loss, given all patches before it; the lowest id of several.

        Args:
            frames: of the pyramid's side.
            counts: patches to choose in every frame.
        """


class CanvasSearcher(Searcher):
    """The search under the canvas loss, mean |canvas - frame|; exact and fast.

    Args:
        pyramid: the patches to choose from.
        softness: above 0, labels come with targets, see `gain_shares`. The search has all
            gains anyway, and where many patches are about as good, the best of them alone
            says little.
    """

    def __init__(self, pyramid: PatchPyramid | None = None, softness: float = 0.0) -> None:
        self.pyramid = pyramid or PatchPyramid()
        self.softness = softness

    @property
    def identity(self) -> str:
        return "canvas"

    def label(self, frames: UInt8[Tensor, "T 3 S S"], counts: Sequence[int]) -> GazeLabels:
        return self._search(frames, [[None] * count for count in counts])

    def follow(self, frames: UInt8[Tensor, "T 3 S S"], ids: Sequence[Sequence[int]]) -> GazeLabels:
        """The losses of another selector's gaze, and the search's targets along it (DAgger).

        Args:
            frames: of the pyramid's side.
            ids: of every frame, numbered from its start, in the order chosen, none twice.

        Returns:
            The same gaze with its losses; its targets are those of the search in the place of
            each patch, after those before it.
        """
        return self._search(frames, ids)

    def _search(
        self, frames: UInt8[Tensor, "T 3 S S"], patches: Sequence[Sequence[int | None]]
    ) -> GazeLabels:
        """Take one patch after the other, the best one in the place of None."""
        canvas = CanvasSearch(self.pyramid)
        ids: list[tuple[int, ...]] = []
        losses: list[tuple[float, ...]] = []
        targets: list[Float[np.ndarray, " V"]] = []
        for frame, wanted in zip(frames.float().div_(255), patches, strict=True):
            search = canvas.start(frame)
            after = []
            for patch in wanted:
                if self.softness > 0:
                    targets.append(gain_shares(search.gains[:-1], self.softness))
                search.take(search.best()[0] if patch is None else patch)
                after.append(search.loss)
            canvas.finish(search.chosen)
            ids.append(tuple(search.chosen))
            losses.append(tuple(after))
        soft = torch.from_numpy(np.stack(targets)).float() if targets else None
        return GazeLabels(tuple(ids), tuple(losses), soft)


def gain_shares(gains: Float[np.ndarray, " V"], softness: float) -> Float[np.ndarray, " V"]:
    """A distribution over patches: exp(-(best gain - gain) / (softness * best gain)), normalised.

    Even among the best where none gains anything.
    """
    best = gains.max()
    if best <= 0:
        weights = (gains == best).astype(float)
    else:
        weights = np.exp(np.maximum((gains - best) / (softness * best), -60.0))
        weights[np.isneginf(gains)] = 0  # taken already
    return weights / weights.sum()
