"""The greedy search on a GPU: all frames of all clips, without waiting for the device in between.

Gazes, losses and gains equal those of `greedy_search.c` bit for bit. The kernels are in
`triton_kernels.py`; with TRITON_INTERPRET=1 they run, slowly, on a CPU.
"""

import bisect
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction import triton_kernels as kernels
from autogaze.reconstruction.canvas import GREY
from autogaze.reconstruction.greedy_search import (
    UNITS,
    CanvasSearch,
    Choices,
    SearchedFrame,
    search_cells,
)
from autogaze.reconstruction.native_plan import factors_along, whole_axis
from autogaze.reconstruction.resample import HALO, down_matrix, source_level, up_matrix

MEMORY = 512 * 2**20
"""Bytes of pictures at once, at most; more where one frame of all clips needs more."""
PIXELS, CELLS, TILE, COLUMNS = 256, 128, 32, 8
"""What a program computes: pixels of a reduced picture, search cells, the side of a tile to transpose,
columns to enlarge."""
SEARCH_WARPS = 8
"""Warps that search in a clip: more of them wait longer for each other at every patch."""
PLAIN: dict[str, Any] = {"enable_fp_fusion": False}
"""Products and sums are fused where the kernels say so, nowhere else."""
UNTAKEN = -(2**61)
"""Gains below this are those of patches that were taken."""


@dataclass(frozen=True)
class Level:
    """A coarser level: how its pictures are reduced.

    Args:
        side: of the reduced picture.
        source: the finer level that it is reduced from, the finest for the frame itself.
        at: where it lies in the reduced pictures of all levels, in numbers.
        pixels, factors: what each result along an axis is the sum of.
    """

    side: int
    source: int
    at: int
    pixels: Int[Tensor, "s n"]
    factors: Float[Tensor, "s n"]


class Tables:
    """A pyramid in the form that the kernels read, on a device.

    Attributes:
        levels: the coarser ones.
        small, num_rows: numbers of one channel reduced to all of them, and their sides added up.
        small_at, sides, first_rows, level_of_row, taps, factors: see `triton_kernels.widen`.
        edges, cell_of: boundaries of search cells along an axis, and the cell of every pixel.
        owners, levels_of, starts, cells: see `triton_kernels.search`.
    """

    def __init__(self, pyramid: PatchPyramid, device: torch.device) -> None:
        def on_device(values: Any, dtype: type = np.int32) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype)).to(device)

        side, finest = pyramid.side, len(pyramid.scales) - 1
        sides = np.array(pyramid.scales[:finest] or [1])
        self.levels: list[Level] = []
        self.small, self.num_rows = int((sides**2).sum()), int(sides.sum())
        small_at = np.cumsum(sides**2) - sides**2
        taps, factors = np.zeros((2, len(sides), side, 4))
        for level, scale in enumerate(pyramid.scales[:finest]):
            source = source_level(pyramid, level)
            down = factors_along(whole_axis(down_matrix, scale, pyramid.scales[source], 0), 0)
            up = factors_along(whole_axis(up_matrix, scale, side, HALO), HALO)
            used = up[0].shape[1]
            taps[level, :, :used], factors[level, :, :used] = up
            pixels, shares = on_device(down[0]), on_device(down[1], np.float32)
            self.levels.append(Level(scale, source, int(small_at[level]), pixels, shares))
        self.small_at, self.sides = on_device(small_at), on_device(sides)
        self.first_rows = on_device(np.cumsum(sides) - sides)
        self.level_of_row = on_device(np.repeat(np.arange(len(sides)), sides))
        self.taps, self.factors = on_device(taps), on_device(factors, np.float32)
        cells = search_cells(pyramid)
        lengths = [len(held) for held in cells.of_patch]
        spans = np.diff(cells.edges)
        self.edges = on_device(cells.edges)
        self.cell_of = on_device(np.repeat(np.arange(len(spans)), spans))
        self.owners, self.levels_of = on_device(cells.owners), on_device(cells.levels)
        self.starts = on_device(np.cumsum([0, *lengths]))
        self.cells = on_device(np.concatenate(cells.of_patch))
        self.num_edges, self.longest, self.most_cells = len(spans), int(spans.max()), max(lengths)


@lru_cache(maxsize=16)
def tables_of(pyramid: PatchPyramid, device: torch.device) -> Tables:
    """The tables of a pyramid, made once per device."""
    with torch.inference_mode(False):
        return Tables(pyramid, device)


@lru_cache(maxsize=64)
def enough_of(pyramid: PatchPyramid, threshold: float | None) -> int:
    """The largest error, in units of 1 / `UNITS`, whose loss is at most a threshold; -1 for none."""
    if threshold is None:
        return -1
    units, least = 3 * pyramid.side**2 * UNITS, np.float32(threshold)
    errors = range(int(units) + 1)
    return bisect.bisect_right(errors, least, key=lambda error: np.float32(error / units)) - 1


class TritonCanvasSearch(CanvasSearch):
    """A `CanvasSearch` on a GPU.

    Args:
        pyramid: the patches to choose from.
        num_clips: B.
        device: where the frames are.
        block: as of `Plan` in native_plan.py, for the sums of this machine's CPU.

    Attributes:
        canvases: (B, 3, S, S) in [0, 1].
        errors: (B, cells, levels) of the last frame; see `TorchCanvasSearch.errors`.
    """

    def __init__(
        self,
        pyramid: PatchPyramid,
        num_clips: int = 1,
        device: torch.device | str = "cuda",
        block: int = 0,
    ) -> None:
        self.pyramid, self.num_clips, self.block = pyramid, num_clips, block
        side = pyramid.side
        with torch.inference_mode(False):  # so that every mode may write it
            self._canvases = torch.full((num_clips, 3, side, side), GREY, device=device)
        self.device = self._canvases.device
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def canvases(self) -> Float32[Tensor, "B 3 S S"]:
        return self._canvases.mT

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
        found = self.search_clips(
            frames[:, None],
            [[each] for each in ids],
            threshold=threshold,
            needs_gain=needs_gain,
            with_gains=with_gains,
        )
        return [clip[0] for clip in found]

    def search_clips(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        ids: Sequence[Sequence[Sequence[int | None]]],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
        with_gains: bool = False,
    ) -> list[list[SearchedFrame]]:
        for index in range(frames.shape[1]):
            self.check(frames[:, index], [clip[index] for clip in ids])
        if not self.num_clips * frames.shape[1]:
            return [[] for _ in range(self.num_clips)]
        asked = _Asked.of(ids, self.device)
        found = self._searched(frames, asked, threshold, needs_gain, with_gains)
        return found.read(3 * self.pyramid.side**2 * UNITS)

    def choose(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        counts: Sequence[int],
        *,
        threshold: float | None = None,
        needs_gain: bool = False,
    ) -> Choices:
        self.check_counts(frames, counts)
        asked = _Asked.best(self.num_clips, counts, self.device)
        found = self._searched(frames, asked, threshold, needs_gain, with_gains=False)
        return found.choices(3 * self.pyramid.side**2 * UNITS)

    def _searched(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        asked: "_Asked",
        threshold: float | None,
        needs_gain: bool,
        with_gains: bool,
    ) -> "_Found":
        """What is found in the next frames, on the device, which is not waited for."""
        B, T, V, most = *frames.shape[:2], self.pyramid.num_patches, asked.most
        new: dict[str, Any] = {"dtype": torch.int64, "device": self.device}
        found = _Found(
            torch.empty(B, T, most, **new),
            torch.empty(B, T, most, **new),
            torch.empty(B, T, **new),
            torch.zeros(B, T, most, V, **new) if with_gains else torch.empty(1, **new),
        )
        frames = frames.detach().to(self.device, non_blocking=True)
        if frames.dtype != torch.uint8:
            frames = frames.float()
        enough = enough_of(self.pyramid, threshold)
        tables = tables_of(self.pyramid, self.device)
        numbers = self.pyramid.side * (self.pyramid.side + tables.num_rows)
        part = max(1, MEMORY // (B * 3 * 4 * numbers))
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            for first in range(0, T, part):
                num = min(part, T - first)
                self._search(frames, first, num, asked, found, enough, needs_gain)
        return found

    def _search(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        first: int,
        num: int,
        asked: "_Asked",
        found: "_Found",
        enough: int,
        needs_gain: bool,
    ) -> None:
        """Search in `num` frames of every clip, from number `first` on."""
        pyramid, tables, B = self.pyramid, tables_of(self.pyramid, self.device), self.num_clips
        side, edges, finest = pyramid.side, tables.num_edges, len(pyramid.scales) - 1
        cells, levels = edges**2, finest + 1
        turned, wide = self._pictures(frames, first, num, tables)
        new: dict[str, Any] = {"device": self.device}
        errors = torch.zeros(B * num, levels, cells, dtype=torch.int64, **new)
        stale, current = torch.empty(2, B, cells, dtype=torch.int64, **new)
        painted = torch.empty(B, cells, dtype=torch.int32, **new)
        sums = torch.empty(B, 3, edges, side, **new)
        up = (tables.taps, tables.factors, tables.first_rows)
        along_x: dict[str, Any] = {"SPLIT": self.block, **_lanes("BLOCK", side)}
        along_y = (tables.edges, edges, tables.longest, side)
        if finest:
            level_sums = torch.empty(B * num * 3, finest, edges, side, **new)
            kernels.level_rows[B * num * 3, edges, finest](
                *(turned, wide, tables.num_rows, *up, tables.edges, edges, side, level_sums),
                **along_x,
            )
            kernels.level_cells[B * num, -(-cells // CELLS), finest](
                *(level_sums, *along_y, errors, levels * cells),
                **{"SPLIT": self.block, "CELLS": CELLS, **PLAIN},
            )
        by_clip = errors.view(B, num, levels, cells)
        for frame in range(num + 1):  # after the last one the canvas is painted alone
            kernels.canvas_rows[B, edges, 3](
                *(turned, frame, num, self._canvases, painted, tables.cell_of, wide),
                *(tables.num_rows, *up, tables.edges, edges, finest, side, sums),
                **{"PAINTS": frame > 0, "COMPARES": frame < num, **along_x},
            )
            if frame == num:
                break
            kernels.search[B,](
                *(by_clip[:, frame], num * levels * cells, sums, *along_y, tables.owners),
                *(tables.levels_of, tables.starts, tables.cells, tables.most_cells, cells),
                *(levels, pyramid.num_patches, first + frame, asked.counts.shape[1]),
                *(asked.counts, asked.given, asked.most, enough, found.chosen),
                *(found.left_after, found.num_chosen, found.gains, stale, current, painted),
                NEEDS_GAIN=needs_gain,
                HAS_GIVEN=asked.given.ndim > 1,
                KEEPS_GAINS=found.gains.ndim > 1,
                SPLIT=self.block,
                CELLS=_power_of_two(cells),
                PATCHES=_power_of_two(pyramid.num_patches),
                num_warps=SEARCH_WARPS,
                **PLAIN,
            )
        self._last = by_clip[:, -1], stale

    def _pictures(
        self, frames: Shaped[Tensor, "B T 3 S S"], first: int, num: int, tables: Tables
    ) -> tuple[Float32[Tensor, "pictures S S"], Float32[Tensor, "pictures S rows"]]:
        """Every channel transposed; and reduced to each coarser level, enlarged again along x."""
        side, finest = self.pyramid.side, len(self.pyramid.scales) - 1
        pictures, tiles = self.num_clips * num * 3, -(-side // TILE)
        turned = torch.empty(pictures, side, side, device=self.device)
        kernels.turn[pictures, tiles, tiles](
            *(frames, first, num, *frames.stride(), turned, side),
            **{"IS_BYTES": frames.dtype == torch.uint8, "TILE": TILE, **PLAIN},
        )
        if not finest:
            return turned, turned
        small = torch.empty(pictures, tables.small, device=self.device)
        wide = torch.empty(pictures, side, tables.num_rows, device=self.device)
        for level in reversed(tables.levels):  # finer ones first: coarser ones are made of them
            source = (turned, 0, side * side, side)
            if level.source < finest:
                finer = tables.levels[level.source]
                source = (small, finer.at, tables.small, finer.side)
            kernels.shrink[pictures, -(-(level.side**2) // PIXELS)](
                *(*source, small, level.at, tables.small, level.side),
                *(level.pixels, level.factors, level.pixels.shape[1]),
                **_lanes("BLOCK", PIXELS),
            )
        kernels.widen[pictures, -(-side // COLUMNS)](
            *(small, tables.small, tables.small_at, tables.sides, tables.level_of_row),
            *(tables.first_rows, wide, tables.num_rows, side, tables.taps, tables.factors),
            COLUMNS=COLUMNS,
            **_lanes("ROWS", tables.num_rows),
        )
        return turned, wide

    @property
    def errors(self) -> Float[np.ndarray, "B cells levels"]:
        if self._last is None:
            raise AttributeError("errors: no frame was searched yet")
        sums, stale = self._last
        of_levels = sums.clone()
        of_levels[:, -1] = stale
        return of_levels.mT.cpu().double().numpy()


@dataclass(frozen=True)
class _Asked:
    """What `triton_kernels.search` is asked for in every frame.

    Args:
        counts: patches to take.
        given: which of them, -1 for the best one; a single number where there is no other.
        most: the largest of the counts.
    """

    counts: Int[Tensor, "B T"]
    given: Int[Tensor, "..."]
    most: int

    @classmethod
    def best(cls, num_clips: int, counts: Sequence[int], device: torch.device) -> "_Asked":
        """The best patches, as many for every clip."""
        of_clips = torch.tensor([list(counts)] * num_clips, dtype=torch.int32)
        given = torch.full((1,), -1, dtype=torch.int32, device=device)
        return cls(of_clips.to(device, non_blocking=True), given, max(counts))

    @classmethod
    def of(cls, ids: Sequence[Sequence[Sequence[int | None]]], device: torch.device) -> "_Asked":
        counts = torch.tensor([[len(frame) for frame in clip] for clip in ids], dtype=torch.int32)
        most = max(1, int(counts.max()))
        given = torch.full((1,), -1, dtype=torch.int32)
        if any(frame.count(None) < len(frame) for clip in ids for frame in clip):
            rows = [
                [-1 if patch is None else patch for patch in frame] + [-1] * (most - len(frame))
                for clip in ids
                for frame in clip
            ]
            given = torch.tensor(rows, dtype=torch.int32).view(*counts.shape, most)
        return cls(counts.to(device), given.to(device), most)


@dataclass(frozen=True)
class _Found:
    """What `triton_kernels.search` writes of every frame; see there."""

    chosen: Int[Tensor, "B T most"]
    left_after: Int[Tensor, "B T most"]
    num_chosen: Int[Tensor, "B T"]
    gains: Int[Tensor, "..."]

    def choices(self, units: float) -> Choices:
        """All of it but what is left within a frame, where it is; waits for the device."""
        last = self.left_after.gather(2, self.num_chosen[..., None] - 1)[..., 0]
        losses = (last.double() / units).float()
        return Choices(self.chosen[self._taken()], self.num_chosen.cpu(), losses)

    def read(self, units: float) -> list[list[SearchedFrame]]:
        """The same on the host, gains aside; here alone it waits for the device."""
        taken, counts = self._taken(), self.num_chosen.tolist()
        ids, losses = (
            self.chosen[taken].tolist(),
            (self.left_after[taken].double() / units).tolist(),
        )
        gains = iter(self._gains(counts))
        found: list[list[SearchedFrame]] = []
        first = 0
        for numbers in counts:
            found.append([])
            for n in numbers:
                own = slice(first, first + n)
                found[-1].append(SearchedFrame(tuple(ids[own]), tuple(losses[own]), next(gains)))
                first += n
        return found

    def _taken(self) -> Bool[Tensor, "B T most"]:
        numbers = torch.arange(self.chosen.shape[2], device=self.chosen.device)
        return numbers < self.num_chosen[..., None]

    def _gains(self, counts: Sequence[Sequence[int]]) -> Iterable[Float[Tensor, "_ V"] | None]:
        """Those of every clip and frame, before each patch that was taken; they stay on the device."""
        if self.gains.ndim == 1:
            return repeat(None)
        taken = self.gains[self._taken()]
        known = taken.double().masked_fill_(taken < UNTAKEN, -math.inf)
        return known.split([n for clip in counts for n in clip])


def _lanes(name: str, number: int) -> dict[str, Any]:
    """Options of a kernel whose constant `name` is its lanes: one number each, so that none is moved."""
    lanes = _power_of_two(number)
    return {name: lanes, "num_warps": min(max(lanes // 32, 1), 16), **PLAIN}


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
