"""The greedy search with the canvas as its judge: exact, on sums over atoms."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.datasets.clip import GazeLabels
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import ClipSearch, FrameLabels, Searcher, join_frames
from autogaze.reconstruction.atoms import atoms_of
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.views import scale_views
from autogaze.selectors.greedy import UNITS, Search


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
