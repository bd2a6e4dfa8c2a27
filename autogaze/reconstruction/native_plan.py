"""What `greedy_search.c` reads and writes: its structures, a pyramid in its form, the compiled library."""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import search_cells
from autogaze.reconstruction.resample import (
    HALO,
    down_matrix,
    num_stretches,
    source_level,
    up_matrix,
)
from autogaze.utils.kernels import c_struct, load_library, parallel_address

W = 8
"""Numbers that the kernel computes at once: `W` of the C file."""


# Structs of greedy_search.c.
Matrix = c_struct(
    """
    int32 num most
    pointer from_ lengths factors
    """
)
Scale = c_struct(
    """
    int32 side source
    matrix down_columns down_rows up_columns up_rows
    """,
    matrix=Matrix,
)
PyramidStruct = c_struct(
    """
    int32 num_levels num_patches edges side block
    pointer scales edge owners first cells level
    """
)
Job = c_struct(
    """
    pointer pyramid parallel
    int32 threads num_clips most is_bytes needs_gain has_threshold
    float32 threshold
    pointer frames
    int64 stride
    pointer canvases scratch counts given chosen num_chosen losses gains errors
    """
)


class Plan:
    """A pyramid in the form that the kernel reads: its search cells and resizing matrices.

    Args:
        block: 0, or pixels of an axis: sums over a search cell are added up from those of blocks
            of so many.
    """

    def __init__(self, pyramid: PatchPyramid, block: int) -> None:
        self._kept: list[np.ndarray] = []  # what the structures point to
        cells, finest = search_cells(pyramid), len(pyramid.scales) - 1
        scales = (Scale * (finest + 1))()
        scales[finest].side = pyramid.side
        for level in range(finest - 1, -1, -1):
            scale = pyramid.scales[level]
            source = source_level(pyramid, level)
            down = whole_axis(down_matrix, scale, pyramid.scales[source], 0)
            up = whole_axis(up_matrix, scale, pyramid.side, HALO)
            scales[level] = Scale(
                scale,
                source,
                self._columns(down, 0),
                self._rows(down),
                self._columns(up, HALO),
                self._rows(up),
            )
        sizes = [len(held) for held in cells.of_patch]
        self._scales = scales
        self._pyramid = PyramidStruct(
            finest + 1,
            pyramid.num_patches,
            len(cells.edges) - 1,
            pyramid.side,
            block,
            ctypes.addressof(scales),
            self._integers(cells.edges),
            self._integers(cells.owners),
            self._integers(np.cumsum([0, *sizes])),
            self._integers(np.concatenate(cells.of_patch)),
            self._integers(cells.levels),
        )
        self.address = ctypes.addressof(self._pyramid)

    def _columns(self, matrix: Float[np.ndarray, "n m"], halo: int) -> Any:
        """Of each result its factors that are not 0, and the rows they belong to."""
        rows, factors = factors_along(matrix, halo)
        lengths = np.count_nonzero(factors, axis=1)
        return self._matrix(rows, lengths, factors, rows.shape[1])

    def _rows(self, matrix: Float[np.ndarray, "n m"]) -> Any:
        """Of `W` results at once the factors from the first to the last that is not 0 for all."""
        groups = [matrix[start : start + W] for start in range(0, len(matrix), W)]
        held = [np.flatnonzero(group.any(axis=0)) for group in groups]
        firsts = [int(taken[0]) for taken in held]
        lengths = [int(taken[-1] + 1 - taken[0]) for taken in held]
        most = max(lengths)
        factors = np.zeros((len(groups), most, W))
        for at, group in enumerate(groups):
            part = group[:, firsts[at] : firsts[at] + lengths[at]]
            factors[at, : lengths[at], : len(group)] = part.T
        return self._matrix(firsts, lengths, factors, most)

    def _matrix(self, firsts: Any, lengths: Any, factors: np.ndarray, most: int) -> Any:
        self._kept.append(np.ascontiguousarray(factors, np.float32))
        address = self._kept[-1].ctypes.data
        return Matrix(len(lengths), most, self._integers(firsts), self._integers(lengths), address)

    def _integers(self, numbers: Any) -> int:
        self._kept.append(np.ascontiguousarray(numbers, np.int32))
        return self._kept[-1].ctypes.data


@lru_cache(maxsize=64)
def plan_of(pyramid: PatchPyramid, block: int) -> Plan:
    """The plan of a pyramid, made once."""
    return Plan(pyramid, block)


def factors_along(
    matrix: Float[np.ndarray, "n m"], halo: int
) -> tuple[Int[np.ndarray, "n most"], Float[np.ndarray, "n most"]]:
    """Pixels that each result along an axis is the sum of, ascending, and their factors.

    Results of fewer than the most have factors of 0 at the end.

    Args:
        matrix: one row per result, of the axis and `halo` pixels on either side.
    """
    held = [np.flatnonzero(row) for row in matrix]
    most = max(map(len, held))
    pixels, factors = np.zeros((len(held), most), int), np.zeros((len(held), most))
    for result, taken in enumerate(held):
        pixels[result, : len(taken)] = taken
        factors[result, : len(taken)] = matrix[result, taken]
    # Beyond the border it is the border.
    return (pixels - halo).clip(0, matrix.shape[1] - 2 * halo - 1), factors


def whole_axis(
    matrix_of: Callable[[int, int, torch.device], Tensor], scale: int, side: int, halo: int
) -> Float[np.ndarray, "n m"]:
    """The matrix of a whole axis, from that of its equal stretches, which share `halo` pixels."""
    stretch = matrix_of(scale, side, torch.device("cpu")).double().numpy()
    num = num_stretches(scale, side)
    height, step = len(stretch), stretch.shape[1] - 2 * halo
    whole = np.zeros((num * height, num * step + 2 * halo))
    for i in range(num):
        whole[i * height : (i + 1) * height, i * step : (i + 1) * step + 2 * halo] = stretch
    return whole


class Library:
    """The compiled kernel.

    Raises:
        NotBuiltError: it cannot be loaded, or PyTorch's threads cannot be had.
    """

    def __init__(self, path: Path) -> None:
        library = load_library(path)
        self.parallel = parallel_address()
        self._search, self._size = library.search_frames, library.scratch_size
        self._search.argtypes = self._size.argtypes = [ctypes.c_void_p]
        self._search.restype, self._size.restype = None, ctypes.c_int64

    def search(self, job: ctypes.Structure) -> None:
        """Search in one frame of every clip."""
        self._search(ctypes.addressof(job))

    def scratch_size(self, plan: Plan) -> int:
        """Floats that a thread works with."""
        return self._size(plan.address)
