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
from jaxtyping import Float, Float32, Int, Shaped
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction import triton_kernels as kernels
from autogaze.reconstruction.canvas import GREY
from autogaze.reconstruction.greedy_search import (
    UNITS,
    CanvasSearch,
    SearchedFrame,
    search_cells,
)
from autogaze.reconstruction.native_plan import factors_along, whole_axis
from autogaze.reconstruction.resample import HALO, down_matrix, source_level, up_matrix

MEMORY = 256 * 2**20
"""Bytes of enlarged pictures at once, at most; more where one frame of all clips needs more."""
PIXELS, CELLS = 256, 64
"""What a program of the kernels over pixels, and over search cells, computes."""
PLAIN: dict[str, Any] = {"enable_fp_fusion": False}
"""Products and sums are fused where the kernels say so, nowhere else."""
UNTAKEN = -(2**61)
"""Gains below this are those of patches that were taken."""


@dataclass(frozen=True)
class Level:
    """A coarser level: how its pictures are made.

    Args:
        side: of the reduced picture.
        source: the finer level that it is reduced from, the finest for the frame itself.
        small_at, wide_at: where it lies in the pictures of all levels, in numbers.
        down, up: pixels and factors of each result along an axis: (side, n) and (S, 4).
    """

    side: int
    source: int
    small_at: int
    wide_at: int
    down: tuple[Int[Tensor, "s n"], Float[Tensor, "s n"]]
    up: tuple[Int[Tensor, "S 4"], Float[Tensor, "S 4"]]


class Tables:
    """A pyramid in the form that the kernels read, on a device.

    Attributes:
        levels: the coarser ones.
        small, wide: numbers of one channel, reduced and enlarged along x, of all of them.
        rows, factors: (levels, S, 4) to enlarge along y: rows among those of all of them.
        edges, cell_of: boundaries of search cells along an axis, and the cell of every pixel.
        owners, levels_of, starts, cells: see `triton_kernels.search`.
    """

    def __init__(self, pyramid: PatchPyramid, device: torch.device) -> None:
        def on_device(values: Any, dtype: type = np.int32) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype)).to(device)

        side, finest = pyramid.side, len(pyramid.scales) - 1
        self.levels: list[Level] = []
        self.small = self.wide = 0
        rows, row_factors = np.zeros((2, max(1, finest), side, 4))
        for level, scale in enumerate(pyramid.scales[:finest]):
            source = source_level(pyramid, level)
            down = factors_along(whole_axis(down_matrix, scale, pyramid.scales[source], 0), 0)
            up = factors_along(whole_axis(up_matrix, scale, side, HALO), HALO)
            used = up[0].shape[1]
            rows[level, :, :used] = up[0] + self.wide // side
            row_factors[level, :, :used] = up[1]
            along = rows[level] - self.wide // side, row_factors[level]
            self.levels.append(
                Level(
                    scale,
                    source,
                    self.small,
                    self.wide,
                    (on_device(down[0]), on_device(down[1], np.float32)),
                    (on_device(along[0]), on_device(along[1], np.float32)),
                )
            )
            self.small += scale * scale
            self.wide += scale * side
        self.rows, self.factors = on_device(rows), on_device(row_factors, np.float32)
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
            self.canvases = torch.full((num_clips, 3, side, side), GREY, device=device)
        self.device = self.canvases.device
        self._last: tuple[Tensor, Tensor] | None = None

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
        B, T, V = self.num_clips, frames.shape[1], self.pyramid.num_patches
        for index in range(T):
            self.check(frames[:, index], [clip[index] for clip in ids])
        if not B * T:
            return [[] for _ in range(B)]
        asked = _Asked.of(ids, self.device)
        most = asked.most
        new: dict[str, Any] = {"dtype": torch.int64, "device": self.device}
        found = _Found(
            torch.zeros(B, T, most, **new),
            torch.zeros(B, T, most, **new),
            torch.zeros(B, T, **new),
            torch.zeros(B, T, most, V, **new) if with_gains else torch.zeros(1, **new),
        )
        frames = frames.detach().to(self.device, non_blocking=True)
        if frames.dtype != torch.uint8:
            frames = frames.float()
        enough = enough_of(self.pyramid, threshold)
        part = max(1, MEMORY // (B * 3 * 4 * max(1, tables_of(self.pyramid, self.device).wide)))
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            for first in range(0, T, part):
                pictures = frames[:, first : first + part].contiguous()
                self._search(pictures, first, asked, found, enough, needs_gain)
        return found.read(3 * self.pyramid.side**2 * UNITS)

    def _search(
        self,
        frames: Shaped[Tensor, "B n 3 S S"],
        first: int,
        asked: "_Asked",
        found: "_Found",
        enough: int,
        needs_gain: bool,
    ) -> None:
        """Search in some frames of every clip, `first` of all of them and those after it."""
        pyramid, tables = self.pyramid, tables_of(self.pyramid, self.device)
        B, num = frames.shape[:2]
        side, levels, cells = pyramid.side, len(pyramid.scales), tables.num_edges**2
        is_bytes = frames.dtype == torch.uint8
        wide = self._widened(frames, tables)
        sums = torch.zeros(B * num, levels, cells, dtype=torch.int64, device=self.device)
        stale = torch.empty(B, cells, dtype=torch.int64, device=self.device)
        painted = torch.empty(B, cells, dtype=torch.int32, device=self.device)
        blocks = -(-cells // CELLS)
        of_cells = (tables.edges, tables.num_edges, tables.longest, side)
        to_rows = (tables.rows, tables.factors)
        options: dict[str, Any] = {"SPLIT": self.block, "IS_BYTES": is_bytes, "CELLS": CELLS}
        options |= {"num_warps": 2, **PLAIN}
        if levels > 1:
            kernels.errors[B * num, blocks, levels - 1](
                *(frames, 0, 1, wide, tables.wide, *to_rows, *of_cells, sums, levels * cells),
                **(options | {"OF_CANVAS": False}),
            )
        by_clip = sums.view(B, num, levels, cells)
        for frame in range(num):
            kernels.errors[B, blocks, 1](
                *(frames, frame, num, self.canvases, side * side, *to_rows, *of_cells),
                *(stale, cells),
                **(options | {"OF_CANVAS": True}),
            )
            kernels.search[B,](
                *(by_clip[:, frame], num * levels * cells, stale, tables.owners),
                *(tables.levels_of, tables.starts, tables.cells, tables.most_cells, cells),
                *(levels, pyramid.num_patches, first + frame, asked.counts.shape[1]),
                *(asked.counts, asked.given, asked.most, enough, found.chosen),
                *(found.left_after, found.num_chosen, found.gains, painted),
                NEEDS_GAIN=needs_gain,
                HAS_GIVEN=asked.given.ndim > 1,
                KEEPS_GAINS=found.gains.ndim > 1,
                CELLS=_power_of_two(cells),
                PATCHES=_power_of_two(pyramid.num_patches),
                num_warps=8,
                **PLAIN,
            )
            kernels.paint[B, -(-(side * side) // PIXELS), 3](
                *(frames, frame, num, self.canvases, painted, tables.cell_of, wide, tables.wide),
                *(*to_rows, tables.num_edges, levels, side),
                IS_BYTES=is_bytes,
                BLOCK=PIXELS,
                **PLAIN,
            )
        self._last = by_clip[:, -1], stale

    def _widened(
        self, frames: Shaped[Tensor, "B n 3 S S"], tables: Tables
    ) -> Float32[Tensor, "pictures wide"]:
        """Every channel reduced to each coarser level, and enlarged again along x."""
        side, finest = self.pyramid.side, len(self.pyramid.scales) - 1
        pictures = frames.shape[0] * frames.shape[1] * 3
        small, wide = (
            torch.empty(pictures, max(1, size), device=self.device)
            for size in (tables.small, tables.wide)
        )
        for level in reversed(tables.levels):  # finer ones first: coarser ones are made of them
            source = (frames, 0, side * side, side)
            if level.source < finest:
                finer = tables.levels[level.source]
                source = (small, finer.small_at, tables.small, finer.side)
            kernels.shrink[pictures, -(-(level.side**2) // PIXELS)](
                *(*source, small, level.small_at, tables.small, level.side),
                *(*level.down, level.down[0].shape[1]),
                IS_BYTES=source[0].dtype == torch.uint8,
                BLOCK=PIXELS,
                **PLAIN,
            )
            kernels.widen[pictures, -(-(level.side * side) // PIXELS)](
                *(small, level.small_at, tables.small, level.side),
                *(wide, level.wide_at, tables.wide, side, *level.up),
                BLOCK=PIXELS,
                **PLAIN,
            )
        return wide

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
    def of(cls, ids: Sequence[Sequence[Sequence[int | None]]], device: torch.device) -> "_Asked":
        counts = torch.tensor([[len(frame) for frame in clip] for clip in ids], dtype=torch.int32)
        most = max(1, int(counts.max()))
        given = torch.full((1,), -1, dtype=torch.int32)
        if any(patch is not None for clip in ids for frame in clip for patch in frame):
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

    def read(self, units: float) -> list[list[SearchedFrame]]:
        """The same on the host, gains aside; the one place that waits for the device."""
        chosen, counts = self.chosen.cpu().numpy(), self.num_chosen.tolist()
        losses = self.left_after.cpu().numpy() / units
        gains = iter(self._gains(counts))
        found: list[list[SearchedFrame]] = []
        for clip, numbers in enumerate(counts):
            found.append([])
            for frame, n in enumerate(numbers):
                ids, after = (each[clip, frame, :n].tolist() for each in (chosen, losses))
                found[-1].append(SearchedFrame(tuple(ids), tuple(after), next(gains)))
        return found

    def _gains(self, counts: Sequence[Sequence[int]]) -> Iterable[Float[Tensor, "_ V"] | None]:
        """Those of every clip and frame, before each patch that was taken; they stay on the device."""
        if self.gains.ndim == 1:
            return repeat(None)
        numbers = torch.arange(self.gains.shape[2], device=self.gains.device)
        taken = self.gains[numbers < self.num_chosen[..., None]]
        known = taken.double().masked_fill_(taken < UNTAKEN, -math.inf)
        return known.split([n for clip in counts for n in clip])


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
