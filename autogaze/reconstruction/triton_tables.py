"""What the kernels of the greedy search on a GPU know of a pyramid: its resizing matrices and search cells."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import search_cells
from autogaze.reconstruction.native_plan import factors_along, whole_axis
from autogaze.reconstruction.resample import HALO, down_matrix, source_level, up_matrix


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
