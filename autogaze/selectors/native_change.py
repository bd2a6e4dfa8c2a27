"""Changes of cells on a CPU: `cell_change.c`, compiled on the machine that runs it.

One pass over the pixels in place of ten, with PyTorch's results bit for bit, which is tried out for
every pyramid.
"""

import ctypes
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.utils.kernels import NotBuiltError, c_struct, parallel_address, struct_function

SOURCE = Path(__file__).with_name("cell_change.c")

log = logging.getLogger(__name__)

Changes = Callable[[Tensor, Tensor, PatchPyramid, Tensor | None], Tensor]
"""Frames, others, pyramid and deviations -> the changes of cells: PyTorch's way to compute them."""


_Work = c_struct(  # `Work` of cell_change.c
    """
    pointer parallel
    int32 threads side grid divided
    int64 clips
    pointer edges shares frames others
    colour std
    pointer row scores
    """,
    colour=ctypes.c_float * 3,
)


class CellChange:
    """Changes of the cells of one pyramid's finest scale.

    Raises:
        NotBuiltError: the kernel cannot be built or used here.
    """

    def __init__(self, pyramid: PatchPyramid) -> None:
        self._side, self._grid = pyramid.side, pyramid.grids[-1]
        self._edges = np.array(pyramid.pixel_edges(pyramid.side), np.int32)
        self._shares = (1 / torch.tensor(np.diff(self._edges))).numpy()
        self._run = struct_function(SOURCE, "cell_change")
        self._parallel = parallel_address()

    def __call__(
        self,
        frames: UInt8[Tensor, "B 3 S S"],
        others: UInt8[Tensor, "B 3 S S"],
        std: Float[Tensor, "3 1 1"] | None,
    ) -> Float[Tensor, "B cells"]:
        """The scores of every clip."""
        frames, others = frames.contiguous(), others.contiguous()
        clips = frames.shape[0]
        scores = torch.empty(clips, self._grid**2)
        threads = min(torch.get_num_threads(), clips)
        row = np.empty((threads, self._side), np.float32)
        work = _Work(
            self._parallel,
            threads,
            self._side,
            self._grid,
            std is not None,
            clips,
            self._edges.ctypes.data,
            self._shares.ctypes.data,
            frames.data_ptr(),
            others.data_ptr(),
            (ctypes.c_float * 3)(*([1.0] * 3 if std is None else std.flatten().tolist())),
            row.ctypes.data,
            scores.data_ptr(),
        )
        self._run(work)
        return scores


@lru_cache(maxsize=64)
def changes_kernel(pyramid: PatchPyramid, by_torch: Changes) -> CellChange | None:
    """The kernel of a pyramid; None where it has other results than `by_torch`, or cannot be had."""
    try:
        kernel = CellChange(pyramid)
        noise = np.random.default_rng(0)
        for clips in (1, 3):
            shape = (2, clips, 3, pyramid.side, pyramid.side)
            frames, others = torch.from_numpy(noise.integers(0, 256, shape, np.uint8))
            for std in (None, torch.tensor([0.25, 0.2, 0.225]).view(3, 1, 1)):
                expected = by_torch(frames, others, pyramid, std)
                if not torch.equal(kernel(frames, others, std), expected):
                    raise NotBuiltError("the compiled kernel gives other numbers than PyTorch")
    except NotBuiltError as error:
        log.debug("changes of cells: torch (%s)", error)
        return None
    return kernel
