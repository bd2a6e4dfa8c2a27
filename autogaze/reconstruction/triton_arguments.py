"""What the kernels of the greedy search on a GPU read and write.

`Tables` are what they know of a pyramid: its resizing matrices and search cells. `Asked` is what a search
is asked for, `Found` what it finds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import Choices, SearchedFrame, search_cells
from autogaze.reconstruction.resample import (
    HALO,
    down_matrix,
    factors_along,
    source_level,
    up_matrix,
    whole_axis,
)


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
        levels_of, boxes, widest, overlaps: see `triton_kernels.search`.
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
        spans = np.diff(cells.edges)
        self.num_edges, self.longest = len(spans), int(spans.max())
        self.edges = on_device(cells.edges)
        self.cell_of = on_device(np.repeat(np.arange(len(spans)), spans))
        held = [np.divmod(of_patch[[0, -1]], len(spans)) for of_patch in cells.of_patch]
        boxes = np.array([(*rows, *columns) for rows, columns in held])
        boxes[:, 1::2] += 1
        self.levels_of, self.boxes = on_device(cells.levels), on_device(boxes)
        self.widest = int((boxes[:, 1] - boxes[:, 0]).max())
        self.overlaps = on_device(_overlaps(boxes[:, :2], np.array(cells.levels)))


def _overlaps(spans: Int[np.ndarray, "V 2"], levels: Int[np.ndarray, " V"]) -> list[int]:
    """Of each level the most cells that a span of it shares with one of another level."""
    most = []
    for level in range(levels.max() + 1):
        own, others = spans[levels == level], spans[levels != level]
        shared = np.minimum(own[:, None, 1], others[:, 1]) - np.maximum(
            own[:, None, 0], others[:, 0]
        )
        most.append(max(0, int(shared.max(initial=0))))
    return most


@lru_cache(maxsize=16)
def tables_of(pyramid: PatchPyramid, device: torch.device) -> Tables:
    """The tables of a pyramid, made once per device."""
    with torch.inference_mode(False):
        return Tables(pyramid, device)


UNTAKEN = -(2**61)
"""Gains below this are those of patches that were taken."""


@dataclass(frozen=True)
class Asked:
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
    def of(cls, ids: Sequence[Sequence[Sequence[int | None]]], device: torch.device) -> "Asked":
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
class Found:
    """What `triton_kernels.search` writes of every frame; see there."""

    chosen: Int[Tensor, "B T most"]
    left_after: Int[Tensor, "B T most"]
    num_chosen: Int[Tensor, "B T"]
    gains: Int[Tensor, "B T most V"] | None

    @classmethod
    def empty(cls, B: int, T: int, most: int, gains: int, device: torch.device) -> "Found":
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
