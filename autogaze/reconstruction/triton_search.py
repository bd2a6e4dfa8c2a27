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
from itertools import accumulate, repeat
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
)
from autogaze.reconstruction.triton_tables import Tables, tables_of
from autogaze.utils.cuda_graphs import CudaGraphs, RecordedCalls, Recorder

MEMORY = 512 * 2**20
"""Bytes of pictures at once, at most; more where one frame of all clips needs more."""
RECORDED = 64 * 2**20
"""Searches that need no more bytes are CUDA graphs: their kernels are short, and so many launches are not."""
PIXELS, CELLS, TILE, COLUMNS = 256, 128, 32, 8
"""What a program computes: pixels of a reduced picture, search cells, the side of a tile to transpose,
columns to enlarge."""
SEARCH_WARPS = 8
"""Warps that search in a clip: more of them wait longer for each other at every patch."""
PLAIN: dict[str, Any] = {"enable_fp_fusion": False}
"""Products and sums are fused where the kernels say so, nowhere else."""
UNTAKEN = -(2**61)
"""Gains below this are those of patches that were taken."""


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
        B, T, V = *frames.shape[:2], self.pyramid.num_patches
        found = _Found.empty(B, T, asked.most, V if with_gains else 0, self.device)
        frames, enough = self._on_device(frames), self._enough(threshold)
        self._last = self._search_parts(frames, self._canvases, asked, found, enough, needs_gain)
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
        B, T, most = self.num_clips, len(counts), max(counts)

        def searched(
            frames: Tensor, canvases: Tensor, counts: Tensor, enough: Tensor
        ) -> Sequence[Tensor]:
            given = torch.full((1,), -1, dtype=torch.int32, device=self.device)
            asked, found = _Asked(counts, given, most), _Found.empty(B, T, most, 0, self.device)
            last = self._search_parts(frames, canvases, asked, found, enough, needs_gain)
            return canvases, found.chosen, found.left_after, found.num_chosen, *last

        frames = self._on_device(frames)
        of_clips = torch.tensor([list(counts)] * B, dtype=torch.int32)
        arguments = (
            *(frames, self._canvases, of_clips.to(self.device, non_blocking=True)),
            self._enough(threshold),
        )
        if self._bytes_of(frames) > RECORDED:
            results = searched(*arguments)
        else:
            key = self.pyramid, self.block, tuple(frames.shape), frames.dtype, most, needs_gain
            results = _recorded(self.device, _stream(self.device)).call(key, searched, arguments)
        self._canvases, chosen, left_after, num_chosen, *last = results
        self._last = last[0], last[1]
        found = _Found(chosen, left_after, num_chosen, None)
        return found.choices(3 * self.pyramid.side**2 * UNITS)

    def _enough(self, threshold: float | None) -> Int[Tensor, "1"]:
        error = enough_of(self.pyramid, threshold)
        return torch.full((1,), error, dtype=torch.int64, device=self.device)

    def _on_device(self, frames: Shaped[Tensor, "B T 3 S S"]) -> Shaped[Tensor, "B T 3 S S"]:
        frames = frames.detach().to(self.device, non_blocking=True)
        return frames if frames.dtype == torch.uint8 else frames.float()

    def _bytes_of(self, frames: Shaped[Tensor, "B T 3 S S"]) -> int:
        """Of pictures that a search in frames works with at once, were there no limit."""
        side, rows = self.pyramid.side, tables_of(self.pyramid, self.device).num_rows
        return frames.shape[0] * frames.shape[1] * 3 * 4 * side * (side + rows)

    def _search_parts(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        canvases: Float32[Tensor, "B 3 S S"],
        asked: "_Asked",
        found: "_Found",
        enough: Tensor,
        needs_gain: bool,
    ) -> tuple[Tensor, Tensor]:
        """Search in all frames, in as many at once as fit in `MEMORY`; errors of the last one."""
        T = frames.shape[1]
        most = max(1, MEMORY // (self._bytes_of(frames) // T))
        part = -(-T // -(-T // most))  # all of them about equally large
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            for first in range(0, T, part):
                num = min(part, T - first)
                last = self._search(frames, first, num, canvases, asked, found, enough, needs_gain)
        return last

    def _search(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        first: int,
        num: int,
        canvases: Float32[Tensor, "B 3 S S"],
        asked: "_Asked",
        found: "_Found",
        enough: Tensor,
        needs_gain: bool,
    ) -> tuple[Tensor, Tensor]:
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
                *(turned, frame, num, canvases, painted, tables.cell_of, wide),
                *(tables.num_rows, *up, tables.edges, edges, finest, side, sums),
                **{"PAINTS": frame > 0, "COMPARES": frame < num, **along_x},
            )
            if frame == num:
                break
            kernels.search[B,](
                *(by_clip[:, frame], num * levels * cells, sums, *along_y, tables.levels_of),
                *(tables.boxes, tables.widest, tables.overlaps, cells, levels),
                *(pyramid.num_patches, first + frame, asked.counts.shape[1]),
                *(asked.counts, asked.given, asked.most, enough, found.chosen),
                *(
                    found.left_after,
                    found.num_chosen,
                    stale if found.gains is None else found.gains,
                ),
                *(stale, current, painted),
                NEEDS_GAIN=needs_gain,
                HAS_GIVEN=asked.given.ndim > 1,
                KEEPS_GAINS=found.gains is not None,
                SPLIT=self.block,
                CELLS=_power_of_two(cells),
                PATCHES=_power_of_two(pyramid.num_patches),
                num_warps=SEARCH_WARPS,
                **PLAIN,
            )
        return by_clip[:, -1], stale

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
    gains: Int[Tensor, "B T most V"] | None

    @classmethod
    def empty(cls, B: int, T: int, most: int, gains: int, device: torch.device) -> "_Found":
        """Room for it; `gains` of every patch, 0 for none."""
        new: dict[str, Any] = {"dtype": torch.int64, "device": device}
        kept = torch.zeros(B, T, most, gains, **new) if gains else None
        left_after = torch.empty(B, T, most, **new)
        return cls(torch.empty_like(left_after), left_after, torch.empty(B, T, **new), kept)

    def choices(self, units: float) -> Choices:
        """All of it but what is left within a frame, where it is; waits for the device."""
        last = self.left_after.gather(2, self.num_chosen[..., None] - 1)[..., 0]
        losses = _quotients(last, units).float()
        return Choices(self.chosen[self._taken()], self.num_chosen.cpu(), losses)

    def read(self, units: float) -> list[list[SearchedFrame]]:
        """The same on the host, gains aside; here alone it waits for the device."""
        taken, counts = self._taken(), self.num_chosen.tolist()
        ids = tuple(self.chosen[taken].tolist())
        losses = tuple(_quotients(self.left_after[taken], units).tolist())
        ends = accumulate(n for clip in counts for n in clip)
        gains = iter(self._gains(counts))
        return [
            [
                SearchedFrame(ids[end - n : end], losses[end - n : end], next(gains))
                for n, end in zip(clip, ends, strict=False)
            ]
            for clip in counts
        ]

    def _taken(self) -> Bool[Tensor, "B T most"]:
        numbers = torch.arange(self.chosen.shape[2], device=self.chosen.device)
        return numbers < self.num_chosen[..., None]

    def _gains(self, counts: Sequence[Sequence[int]]) -> Iterable[Float[Tensor, "_ V"] | None]:
        """Those of every clip and frame, before each patch that was taken; they stay on the device."""
        if self.gains is None:
            return repeat(None)
        taken = self.gains[self._taken()]
        known = taken.double().masked_fill_(taken < UNTAKEN, -math.inf)
        return known.split([n for clip in counts for n in clip])


def _quotients(numbers: Int[Tensor, "*n"], divisor: float) -> Float[Tensor, "*n"]:
    """Numbers by a divisor, in float64, rounded as a CPU's.

    By a tensor: where the divisor is a plain number, PyTorch multiplies by its reciprocal on a GPU.
    """
    return numbers.double() / torch.full((1,), divisor, dtype=torch.float64, device=numbers.device)


@lru_cache(maxsize=4)
def _recorded(device: torch.device, stream: int) -> RecordedCalls:
    """Searches that were recorded on a stream of a device."""
    return RecordedCalls(CudaGraphs(device) if device.type == "cuda" else Recorder(), most=4)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _lanes(name: str, number: int) -> dict[str, Any]:
    """Options of a kernel whose constant `name` is its lanes: one number each, so that none is moved."""
    lanes = _power_of_two(number)
    return {name: lanes, "num_warps": min(max(lanes // 32, 1), 16), **PLAIN}


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
