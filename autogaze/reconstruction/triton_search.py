"""The greedy search on a GPU: all frames of all clips, without waiting for the device in between.

Gazes, losses and gains equal those of `greedy_search.c` bit for bit. The kernels are in
`triton_kernels.py`; with TRITON_INTERPRET=1 they run, slowly, on a CPU.
"""

import bisect
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Shaped
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction import triton_kernels as kernels
from autogaze.reconstruction.canvas import GREY
from autogaze.reconstruction.greedy_search import UNITS, CanvasSearch, Choices, SearchedFrame
from autogaze.reconstruction.triton_arguments import Asked, Found, Tables, tables_of
from autogaze.utils.cuda_graphs import CudaGraphs, RecordedCalls, Recorder
from autogaze.utils.device import stream_number
from autogaze.utils.kernels import failure_of, power_of_two

log = logging.getLogger(__name__)

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
        block: as of `Plan` in native_search.py, for the sums of this machine's CPU.

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
        asked = Asked.of(ids, self.device)
        B, T, V = *frames.shape[:2], self.pyramid.num_patches
        found = Found.empty(B, T, asked.most, V if with_gains else 0, self.device)
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
        frames, calls = self._on_device(frames), None
        if self._bytes_of(frames) <= RECORDED:
            failure = recording_failure(self.pyramid, self.device, self.block)
            calls = None if failure else _recorded(self.device, stream_number(self.device))
        return self._choose(frames, counts, threshold, needs_gain, calls)

    def _choose(
        self,
        frames: Shaped[Tensor, "B T 3 S S"],
        counts: Sequence[int],
        threshold: float | None,
        needs_gain: bool,
        calls: RecordedCalls | None,
    ) -> Choices:
        """As `choose`, of frames on the device; `calls` replay the search, None launches its kernels."""
        B, T, most = self.num_clips, len(counts), max(counts)

        def searched(
            frames: Tensor, canvases: Tensor, counts: Tensor, enough: Tensor
        ) -> Sequence[Tensor]:
            given = torch.full((1,), -1, dtype=torch.int32, device=self.device)
            asked, found = Asked(counts, given, most), Found.empty(B, T, most, 0, self.device)
            last = self._search_parts(frames, canvases, asked, found, enough, needs_gain)
            return canvases, found.chosen, found.left_after, found.num_chosen, *last

        of_clips = torch.tensor([list(counts)] * B, dtype=torch.int32)
        arguments = (
            *(frames, self._canvases, of_clips.to(self.device, non_blocking=True)),
            self._enough(threshold),
        )
        if calls is None:
            results = searched(*arguments)
        else:
            # Tables by themselves: a recording reads them where they lie, so they must not go before it.
            tables = tables_of(self.pyramid, self.device)
            key = tables, self.block, tuple(frames.shape), frames.dtype, most, needs_gain
            results = calls.call(key, searched, arguments)
        self._canvases, chosen, left_after, num_chosen, *last = results
        self._last = last[0], last[1]
        found = Found(chosen, left_after, num_chosen, None)
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
        asked: "Asked",
        found: "Found",
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
        asked: "Asked",
        found: "Found",
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
                CELLS=power_of_two(cells),
                PATCHES=power_of_two(pyramid.num_patches),
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


@lru_cache(maxsize=64)
def recording_failure(pyramid: PatchPyramid, device: torch.device, block: int) -> str:
    """Why searches cannot be replayed on a device; nothing where they can.

    Three pairs of frames of noise, one after the other, must have the same patches either way.
    """
    if device.type != "cuda":
        return ""  # nothing is recorded
    generator, side = torch.Generator().manual_seed(0), pyramid.side
    pairs = torch.rand(3, 1, 2, 3, side, side, generator=generator).to(device)
    counts = [min(pyramid.num_patches, 32)] * 2

    def trial() -> str:
        found = [
            [search._choose(frames, counts, None, False, calls) for frames in pairs]
            for search, calls in (
                (TritonCanvasSearch(pyramid, 1, device, block), None),
                (TritonCanvasSearch(pyramid, 1, device, block), RecordedCalls(CudaGraphs(device))),
            )
        ]
        are_same = all(_same(*both) for both in zip(*found, strict=True))
        return "" if are_same else "patches differ"

    failure = failure_of(trial)
    if failure:
        log.warning("greedy searches are launched anew each time, which takes longer: %s", failure)
    return failure


def _same(one: Choices, other: Choices) -> bool:
    pairs = zip(
        (one.ids, one.lengths, one.losses), (other.ids, other.lengths, other.losses), strict=True
    )
    return all(mine.equal(theirs) for mine, theirs in pairs)


@lru_cache(maxsize=4)
def _recorded(device: torch.device, stream: int) -> RecordedCalls:
    """Searches that were recorded on a stream of a device."""
    return RecordedCalls(CudaGraphs(device) if device.type == "cuda" else Recorder(), most=4)


def _lanes(name: str, number: int) -> dict[str, Any]:
    """Options of a kernel whose constant `name` is its lanes: one number each, so that none is moved."""
    lanes = power_of_two(number)
    return {name: lanes, "num_warps": min(max(lanes // 32, 1), 16), **PLAIN}
