"""The greedy search in C for CPUs: `greedy_search.c`, compiled on the machine that runs it.

`Plan` is a pyramid in the form that it reads; `native_search` says whether its results are PyTorch's.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY
from autogaze.reconstruction.greedy_search import (
    CanvasSearch,
    SearchedFrame,
    TorchCanvasSearch,
    search_cells,
)
from autogaze.reconstruction.resample import (
    HALO,
    down_matrix,
    factors_along,
    source_level,
    up_matrix,
    whole_axis,
)
from autogaze.utils.kernels import (
    NotBuiltError,
    built_library,
    c_struct,
    load_library,
    parallel_address,
)

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


SOURCE = Path(__file__).with_name("greedy_search.c")

BLOCKS = (0, 192, 256, 320, 384)
"""Blocks to try: matrix products of long rows add up blocks of them, as long as suits the processor."""
TAKEN = -1e299
"""Gains below this are those of patches that were taken."""


@dataclass(frozen=True)
class SearchKernel:
    """Choice of the code that searches.

    Attributes:
        name: "triton" is triton_kernels.py, on a GPU; "native" is greedy_search.c, compiled here,
            for a CPU (frames of a GPU are copied to it); "torch" is PyTorch and numpy.
        why: the reason for the choice, in words.
        library: greedy_search.c, where it was chosen.
        block: see `Plan`.
    """

    name: Literal["triton", "native", "torch"]
    why: str
    library: Library | None = field(default=None, repr=False, compare=False)
    block: int = 0


@lru_cache(maxsize=64)
def native_search(pyramid: PatchPyramid) -> SearchKernel:
    """The search in C where it equals PyTorch's bit for bit; compiled at first use."""
    search = built_search()
    if search.library is not None:
        for block in BLOCKS:
            if _equals(NativeCanvasSearch(pyramid, 1, search.library, block)):
                return replace(search, block=block)
        # With very small matrices, say.
        return SearchKernel("torch", f"sums of {pyramid} are not rounded here as ours are")
    return search


@cache
def built_search() -> SearchKernel:
    """The search in C, whether or not it equals PyTorch's."""
    try:
        path = built_library(SOURCE)
        return SearchKernel("native", f"compiled here: {path}", Library(path))
    except NotBuiltError as error:
        return SearchKernel("torch", str(error))


def _equals(ours: "NativeCanvasSearch") -> bool:
    """Whether two frames of noise have the same errors and gazes as in PyTorch, bit for bit."""
    pyramid, noise = ours.pyramid, np.random.default_rng(0)
    frames = noise.random((2, 1, 3, pyramid.side, pyramid.side), np.float32)
    ids = [[None] * min(pyramid.num_patches, 64)]
    theirs = TorchCanvasSearch(pyramid)
    for frame in map(torch.from_numpy, frames):
        errors = theirs.errors(frame[0], 0)
        found, wanted = ours.search(frame, ids), theirs.search(frame, ids)
        if found != wanted or not np.array_equal(ours.errors[0], errors):
            return False
    return True


class NativeCanvasSearch(CanvasSearch):
    """A `CanvasSearch` in C: a frame of every clip is one call, with threads across clips.

    With fewer clips than threads, threads share the channels of each clip.

    Attributes:
        errors: (B, cells, levels) of the last frame; see `TorchCanvasSearch.errors`.
    """

    errors: Float[np.ndarray, "B cells levels"]

    def __init__(
        self, pyramid: PatchPyramid, num_clips: int, library: Library, block: int = 0
    ) -> None:
        self.pyramid, self.num_clips = pyramid, num_clips
        self.block = block
        self._library = library
        row = -(-pyramid.side // W) * W
        with torch.inference_mode(False):  # so that every mode may write it
            # Transposed, in rows of whole vectors.
            shape = num_clips, 3, pyramid.side, row
            self._canvases = torch.full(shape, GREY, dtype=torch.float32, device="cpu")
        cells = len(search_cells(pyramid).owners)
        self.errors = np.zeros((num_clips, cells, len(pyramid.scales)))
        self._scratch = np.empty(0, np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process, or is written anew for every frame."""
        kept = {name: value for name, value in vars(self).items() if name != "_library"}
        return {**kept, "_scratch": np.empty(0, np.float32)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises SelectorError where the kernel cannot be had."""
        vars(self).update(state)
        search = built_search()
        if search.library is None:
            raise SelectorError(
                f"this stream was made with the native greedy search: {search.why}; make it with "
                "AUTOGAZE_SEARCH=torch to continue it here"
            )
        self._library = search.library

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
        given, counts = self._given(ids)
        frames = self._contiguous(frames)
        V, threads = self.pyramid.num_patches, torch.get_num_threads()
        chosen, losses = np.empty_like(given), np.empty(given.shape)
        num_chosen = np.empty_like(counts)
        gains = np.empty((*given.shape, V)) if with_gains else None
        plan = plan_of(self.pyramid, self.block)
        needed = self._library.scratch_size(plan) * threads
        if len(self._scratch) < needed:
            self._scratch = np.zeros(needed, np.float32)
        self._library.search(
            Job(
                pyramid=plan.address,
                parallel=self._library.parallel,
                threads=threads,
                num_clips=len(given),
                most=given.shape[1],
                is_bytes=frames.dtype == torch.uint8,
                needs_gain=needs_gain,
                has_threshold=threshold is not None,
                threshold=threshold or 0.0,
                frames=frames.data_ptr(),
                stride=frames.stride(0),
                canvases=self._canvases.data_ptr(),
                scratch=self._scratch.ctypes.data,
                counts=counts.ctypes.data,
                given=given.ctypes.data,
                chosen=chosen.ctypes.data,
                num_chosen=num_chosen.ctypes.data,
                losses=losses.ctypes.data,
                gains=None if gains is None else gains.ctypes.data,
                errors=self.errors.ctypes.data,
            )
        )
        found = []
        for clip, n in enumerate(num_chosen.tolist()):
            kept = None if gains is None else gains[clip, :n]
            if kept is not None:
                kept[kept < TAKEN] = -np.inf
            numbers = tuple(chosen[clip, :n].tolist()), tuple(losses[clip, :n].tolist())
            found.append(SearchedFrame(*numbers, None if kept is None else torch.from_numpy(kept)))
        return found

    def _given(
        self, ids: Sequence[Sequence[int | None]]
    ) -> tuple[Int[np.ndarray, "B most"], Int[np.ndarray, " B"]]:
        """Ids as the kernel takes them, -1 for the best one, and their numbers."""
        counts = np.array([len(each) for each in ids], np.int32)
        given = np.full((self.num_clips, max(1, counts.max(initial=0))), -1, np.int64)
        for row, each in zip(given, ids, strict=True):
            row[: len(each)] = [-1 if patch is None else patch for patch in each]
        return given, counts

    def _contiguous(self, frames: Shaped[Tensor, "B 3 S S"]) -> Shaped[Tensor, "B 3 S S"]:
        """Frames of uint8 or float32 on the CPU, every one of them contiguous."""
        side, frames = self.pyramid.side, frames.cpu()
        if frames.dtype != torch.uint8:
            frames = frames.float()
        if frames.stride()[1:] != (side * side, side, 1):
            frames = frames.contiguous()
        return frames
