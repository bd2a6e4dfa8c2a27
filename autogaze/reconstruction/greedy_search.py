"""Exact greedy search: patch by patch, the one that lowers the canvas error most.

The cell boundaries of all scales together cut a frame into search cells (16 x 16 of them for
scales 32/64/112/224). Every patch is a set of whole search cells, so the canvas error of any set
of patches follows from one error sum per search cell and scale: pixels are read once per frame,
and taking a patch updates only those that overlap it.

Used by the greedy selector, for labels of next-token pre-training, and for targets of on-policy
rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.resample import resampled_scales
from autogaze.utils.device import without_autocast

# Error sums are counted in whole units of 2^-24, small enough for any loss and coarse
# enough that float64 adds and subtracts them without rounding: no drift over hundreds
# of updates, true ties, and the same choice whatever the order of additions.
UNITS = 2.0**24


class CanvasSearch:
    """Greedy searches on the canvases of B clips, one frame of one clip at a time.

    `start` a frame, `take` patches from the `Search` that it returns, `finish` the frame.
    Clips do not wait for each other: a frame's resampled scales fit in a CPU's cache, those
    of a batch do not; and no clip's result can depend on its neighbours.

    Args:
        pyramid: the patches to choose from.
        num_clips: B.
        device: where the frames are.
    """

    def __init__(
        self, pyramid: PatchPyramid, num_clips: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.pyramid = pyramid
        self.cells = search_cells(pyramid)
        self.canvases = [Canvas(pyramid, 1, device) for _ in range(num_clips)]
        # Made once: new memory for every frame would cost as much as what is done in it.
        side = pyramid.side
        with torch.inference_mode(False):  # so that every mode may write it
            self._buffer = torch.empty(2, len(pyramid.scales), 3, side, side, device=device)

    def start(self, frame: Float[Tensor, "3 S S"], clip: int = 0) -> "Search":
        """The search in the next frame of a clip.

        Args:
            frame: RGB in [0, 1], of the pyramid's side.
            clip: which of the B.
        """
        scales, differences = self._buffer
        resampled_scales(frame, self.pyramid, out=scales)
        # The errors of the coarser scales, and of the canvas as it is: summed in one go.
        # The finest scale is the frame itself, so its place is free.
        torch.sub(scales[:-1], frame, out=differences[:-1])
        torch.sub(self.canvases[clip].frames[0], frame, out=differences[-1])
        sums = self.cells.sums(differences.abs_()).cpu().double().numpy()  # (levels, cells)
        errors = np.rint(sums.T * UNITS)
        stale, errors[:, -1] = errors[:, -1].copy(), 0
        return Search(self.cells, errors, stale)

    def finish(self, chosen: Sequence[int], clip: int = 0) -> Int[Tensor, " n"]:
        """Paint what was chosen in the frame that was started last; the ids on its device."""
        ids = torch.tensor(chosen, device=self._buffer.device)
        mask = torch.zeros(1, self.pyramid.num_patches, dtype=torch.bool, device=ids.device)
        mask[0, ids] = True
        self.canvases[clip].paint(self._buffer[:1], mask)
        return ids


class Search:
    """The greedy search inside one frame of one clip.

    Args:
        cells: of the pyramid.
        errors: |resampled frame - frame| summed over every search cell, for every level.
        stale: |canvas - frame| summed over every search cell, before any patch is taken.
            Both in whole units of 1 / `UNITS`.

    Attributes:
        chosen: the patches taken so far, in order.
        gains: (V + 1,) the drop in error that each patch would bring; -inf for what is
            taken. The last slot collects search cells that no patch of a level covers.
    """

    def __init__(
        self,
        cells: "SearchCells",
        errors: Float[np.ndarray, "cells levels"],
        stale: Float[np.ndarray, " cells"],
    ) -> None:
        self.cells = cells
        self.errors = errors
        self.chosen: list[int] = []
        self._error = float(stale.sum())
        self._units = 3 * cells.edges[-1] ** 2 * UNITS
        # What painting a search cell at a level would save: nothing where it is painted as
        # fine as that already.
        self._drops = stale[:, None] - errors
        self._painted = np.full(len(cells.owners), -1)
        self._num_slots = len(cells.levels) + 1
        self.gains = self._per_patch(cells.owners, self._drops)
        self.gains[-1] = -np.inf

    @property
    def loss(self) -> float:
        """The canvas loss left: mean |canvas - frame|, in [0, 1]."""
        return self._error / self._units

    def best(self) -> tuple[int, float]:
        """The patch that lowers the error most (the lowest id of several), and by how much."""
        patch = int(self.gains.argmax())
        return patch, float(self.gains[patch])

    def take(self, patch: int) -> None:
        """Paint a patch; the gains of patches that share its search cells change."""
        level = self.cells.levels[patch]
        self.chosen.append(patch)
        self._error -= float(self.gains[patch])
        self.gains[patch] = -np.inf
        covered = self.cells.of_patch[patch]
        visible = covered[self._painted[covered] < level]  # finer patches stay on top
        if visible.size == 0:
            return
        self._painted[visible] = level
        errors = self.errors[visible]
        drops = errors[:, level, None] - errors
        drops[:, : level + 1] = 0
        change = drops - self._drops[visible]
        self._drops[visible] = drops
        self.gains += self._per_patch(self.cells.owners[visible], change)

    def _per_patch(
        self, owners: Int[np.ndarray, "n levels"], values: Float[np.ndarray, "n levels"]
    ) -> Float[np.ndarray, " slots"]:
        return np.bincount(owners.ravel(), values.ravel(), self._num_slots)


@dataclass(frozen=True, eq=False)
class SearchCells:
    """Search cells: the parts of a frame that no patch of any scale divides, row by row.

    Args:
        edges: pixel boundaries of the search cells, the same along both axes.
        owners: id of the patch that holds each search cell at every level; V where no patch
            of that level covers it (cropped pyramids).
        of_patch: the search cells of every patch.
        levels: the level of every patch.
    """

    edges: tuple[int, ...]
    owners: Int[np.ndarray, "cells levels"]
    of_patch: tuple[Int[np.ndarray, " _"], ...]
    levels: tuple[int, ...]

    def sums(self, images: Float[Tensor, "*batch 3 S S"]) -> Float[Tensor, "*batch cells"]:
        """Sums over the pixels and channels of every search cell."""
        indicator = _indicator(self.edges, images.device)  # (cells per side, S)
        # Columns, then rows: as matrix products these are many times faster than scattering.
        with without_autocast(images.device):  # `UNITS` are finer than half precision
            columns = images @ indicator.mT
            return (indicator @ columns).sum(dim=-3).flatten(-2)


@lru_cache(maxsize=16)
def search_cells(pyramid: PatchPyramid) -> SearchCells:
    """The search cells of a pyramid."""
    boundaries = [pyramid.pixel_edges(scale) for scale in pyramid.scales]
    edges = sorted({0, pyramid.side}.union(*boundaries))
    starts = np.array(edges[:-1])
    owners = np.full((starts.size, starts.size, len(boundaries)), pyramid.num_patches)
    for level, grid in enumerate(pyramid.grids):
        cell = np.searchsorted(boundaries[level][1:], starts, side="right")
        ids = pyramid.offsets[level] + cell[:, None] * grid + cell
        covered = (cell[:, None] < grid) & (cell < grid)
        owners[..., level] = np.where(covered, ids, pyramid.num_patches)
    levels = tuple(pyramid.levels.tolist())
    flat = owners.reshape(-1, len(boundaries))
    of_patch = tuple(np.flatnonzero(flat[:, level] == patch) for patch, level in enumerate(levels))
    return SearchCells(tuple(edges), flat, of_patch, levels)


@lru_cache(maxsize=64)
def _indicator(edges: tuple[int, ...], device: torch.device) -> Float[Tensor, "a S"]:
    """Row i is 1 on the pixels of the i-th search cell along one axis."""
    with torch.inference_mode(False):
        pixels = torch.arange(edges[-1])
        low, high = torch.tensor(edges[:-1])[:, None], torch.tensor(edges[1:])[:, None]
        return ((pixels >= low) & (pixels < high)).to(device, torch.float32)
