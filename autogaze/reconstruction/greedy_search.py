"""Exact greedy search: patch by patch, the one that lowers the canvas error most.

The cell boundaries of all scales together cut a frame into search cells (16 x 16 of them for
scales 32/64/112/224). Every patch is a set of whole search cells, so the canvas error of any set
of patches follows from one error sum per search cell and scale: pixels are read once per frame,
and taking a patch updates only those that overlap it.

Used by the greedy selector, for labels of next-token pre-training, and for targets of on-policy
rollouts, through `autogaze.reconstruction.search_kernel.new_canvas_search`: on CPUs the same search
is done in C.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from autogaze.errors import GeometryError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.resample import resampled_scales
from autogaze.utils.device import without_autocast

# Error sums are counted in whole units of 2^-24, small enough for any loss and coarse
# enough that float64 adds and subtracts them without rounding: no drift over hundreds
# of updates, true ties, and the same choice whatever the order of additions.
UNITS = 2.0**24


@dataclass(frozen=True)
class SearchedFrame:
    """What a search chose in one frame of one clip.

    Args:
        ids: in the order chosen.
        losses: the canvas loss after each of them: mean |canvas - frame|, in [0, 1].
        gains: the drop in error that every patch would have brought before each of them, in units
            of 1 / `UNITS`; -inf for what was taken. Only where it was asked for, on the device that searched.
    """

    ids: tuple[int, ...]
    losses: tuple[float, ...]
    gains: Float[Tensor, "n V"] | None = None


@dataclass(frozen=True)
class Choices:
    """The best patches of B clips of T frames, N in all.

    Args:
        ids: frame-relative, clip by clip, frame by frame, in the order chosen.
        lengths: patches of every frame, on the CPU.
        losses: the canvas loss after the last of them, in [0, 1].
    """

    ids: Int[Tensor, " N"]
    lengths: Int[Tensor, "B T"]
    losses: Float[Tensor, "B T"]


class CanvasSearch(ABC):
    """Greedy searches on the canvases of B clips, frame by frame.

    Attributes:
        pyramid: the patches to choose from.
        num_clips: B.
    """

    pyramid: PatchPyramid
    num_clips: int

    @abstractmethod
    def search(
        self,
        frames: Shaped[Tensor, "B 3 S S"],
        ids: Sequence[Sequence[int | None]],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
        with_gains: bool = False,
    ) -> list[SearchedFrame]:
        """Choose patches of the next frame of every clip, and paint them.

        Args:
            frames: of the pyramid's side; uint8, or floats in [0, 1].
            ids: the patches that each clip takes, none twice; None for the best one.
            threshold: a frame takes no more when its loss, in float32, is at most this.
            needs_gain: a frame takes no more when the next patch would not lower its loss.
                Both after its first patch.
            with_gains: whether to keep gains.

        Raises:
            GeometryError: frames of another number or size, or ids that are no patches or repeated.
        """

    def search_clips(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        ids: Sequence[Sequence[Sequence[int | None]]],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
        with_gains: bool = False,
    ) -> list[list[SearchedFrame]]:
        """`search` in the next T frames; on a GPU the host waits once for all of them.

        Args:
            ids: of every clip and frame.

        Returns:
            What was chosen in every clip and frame.
        """
        options: dict[str, Any] = {"threshold": threshold, "needs_gain": needs_gain}
        found = [
            self.search(
                frames[:, index], [clip[index] for clip in ids], with_gains=with_gains, **options
            )
            for index in range(frames.shape[1])
        ]
        return [[frame[clip] for frame in found] for clip in range(self.num_clips)]

    def choose(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        counts: Sequence[int],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
    ) -> Choices:
        """The best patches of the next T frames, chosen and painted as by `search_clips`.

        Args:
            counts: of every frame, at most so many, at least one.

        Returns:
            What was chosen, on the frames' device.

        Raises:
            GeometryError: frames of another number or size, or counts that no frame can have.
        """
        self.check_counts(frames, counts)
        best: list[list[int | None]] = [[None] * count for count in counts]
        found = self.search_clips(
            frames, [best] * self.num_clips, threshold=threshold, needs_gain=needs_gain
        )
        ids = [patch for clip in found for frame in clip for patch in frame.ids]
        losses = [[frame.losses[-1] for frame in clip] for clip in found]
        return Choices(
            torch.tensor(ids, dtype=torch.long).to(frames.device),
            torch.tensor([[len(frame.ids) for frame in clip] for clip in found]),
            torch.tensor(losses).to(frames.device),
        )

    def check_counts(self, frames: Shaped[Tensor, "B T 3 S S"], counts: Sequence[int]) -> None:
        """Raise the errors of `choose`."""
        V = self.pyramid.num_patches
        if not counts or frames.shape[1] != len(counts) or not 1 <= min(counts) <= max(counts) <= V:
            raise GeometryError(
                f"expected counts from 1 to {V} of each of {frames.shape[1]} frames, got {list(counts)}"
            )
        self.check(frames[:, 0], [()] * self.num_clips)

    def check(self, frames: Shaped[Tensor, "..."], ids: Sequence[Sequence[int | None]]) -> None:
        """Raise the errors of `search`."""
        side, V = self.pyramid.side, self.pyramid.num_patches
        if tuple(frames.shape) != (self.num_clips, 3, side, side) or len(ids) != self.num_clips:
            raise GeometryError(
                f"expected {self.num_clips} frames of side {side} and ids of each, got "
                f"{tuple(frames.shape)} and {len(ids)}"
            )
        for each in ids:
            if each.count(None) == len(each) <= V:
                continue
            known = [patch for patch in each if patch is not None]
            if len(each) > V or len(set(known)) < len(known):
                raise GeometryError(f"a frame takes each of {V} patches once, got {list(each)}")
            if known and not 0 <= min(known) <= max(known) < V:
                raise GeometryError(f"ids must be from 0 to {V - 1}, got {list(each)}")


class TorchCanvasSearch(CanvasSearch):
    """A `CanvasSearch` in PyTorch and numpy.

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
        self.pyramid, self.num_clips = pyramid, num_clips
        self.cells = search_cells(pyramid)
        self.canvases = [Canvas(pyramid, 1, device) for _ in range(num_clips)]
        # Made once: new memory for every frame would cost as much as what is done in it.
        side = pyramid.side
        with torch.inference_mode(False):  # so that every mode may write it
            self._buffer = torch.empty(2, len(pyramid.scales), 3, side, side, device=device)

    def search(
        self,
        frames: Shaped[Tensor, "B 3 S S"],
        ids: Sequence[Sequence[int | None]],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
        with_gains: bool = False,
    ) -> list[SearchedFrame]:
        self.check(frames, ids)
        found = []
        for clip, (frame, given) in enumerate(zip(frames, ids, strict=True)):
            if frame.dtype == torch.uint8:
                frame = frame.float().div_(255)
            search = self.start(frame, clip)
            least = -np.inf if threshold is None else np.float32(threshold)
            losses, gains = [], []
            for patch in given:
                patch = search.best() if patch is None else patch
                if search.chosen and needs_gain and search.gains[patch] <= 0:
                    break
                # Rounded to float32 as it is reported, so that a reported loss is never above.
                if search.chosen and np.float32(search.loss) <= least:
                    break
                if with_gains:
                    gains.append(search.gains[:-1].copy())
                search.take(patch)
                losses.append(search.loss)
            self.finish(search.chosen, clip)
            kept = None
            if with_gains:
                kept = torch.from_numpy(np.array(gains).reshape(-1, self.pyramid.num_patches))
            found.append(SearchedFrame(tuple(search.chosen), tuple(losses), kept))
        return found

    def start(self, frame: Float[Tensor, "3 S S"], clip: int = 0) -> "Search":
        """The search in the next frame of a clip.

        Args:
            frame: RGB in [0, 1], of the pyramid's side.
            clip: which of the B.
        """
        errors = self.errors(frame, clip)
        stale, errors[:, -1] = errors[:, -1].copy(), 0
        return Search(self.cells, errors, stale)

    def errors(self, frame: Float[Tensor, "3 S S"], clip: int) -> Float[np.ndarray, "cells levels"]:
        """Errors of the coarser scales, and last of the canvas as it is, in units of 1 / `UNITS`."""
        scales, differences = self._buffer
        resampled_scales(frame, self.pyramid, out=scales)
        # Summed in one go. The finest scale is the frame itself, so its place is free.
        torch.sub(scales[:-1], frame, out=differences[:-1])
        torch.sub(self.canvases[clip].frames[0], frame, out=differences[-1])
        sums = self.cells.sums(differences.abs_()).cpu().double().numpy()  # (levels, cells)
        return np.rint(sums.T * UNITS)

    def finish(self, chosen: Sequence[int], clip: int = 0) -> None:
        """Paint what was chosen in the frame that was started last."""
        ids = torch.tensor(chosen, device=self._buffer.device, dtype=torch.long)
        mask = torch.zeros(1, self.pyramid.num_patches, dtype=torch.bool, device=ids.device)
        mask[0, ids] = True
        self.canvases[clip].paint(self._buffer[:1], mask)


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

    def best(self) -> int:
        """The patch that lowers the error most (the lowest id of several)."""
        return int(self.gains.argmax())

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
