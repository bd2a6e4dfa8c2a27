"""Scoring and selecting cells of the finest scale, shared by run-length, change and codec.

A scored frame takes its highest cells. A frame that is all new (the first of a clip) is taken
whole, at the finest scale whose cells all fit the cap. Bytes on a CPU are compared by `cell_change.c`,
compiled on the machine that runs it: one pass over the pixels in place of ten, with PyTorch's results
bit for bit, which is tried out for every pyramid.
"""

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from autogaze.clips import Clips
from autogaze.geometry import PatchPyramid
from autogaze.utils.device import without_autocast
from autogaze.utils.kernels import NotBuiltError, c_struct, parallel_address, struct_function


def cell_means(
    images: Float[Tensor, "*batch S S"], pyramid: PatchPyramid
) -> Float[Tensor, "*batch cells"]:
    """Means over the pixels of every cell of the finest scale, row by row."""
    average = _averaging(pyramid, images.device)  # (g, S)
    with without_autocast(images.device):  # thresholds are compared in float32
        return (average @ (images @ average.mT)).flatten(-2)


def cell_changes(
    frames: Shaped[Tensor, "B 3 S S"],
    others: Shaped[Tensor, "B 3 S S"],
    pyramid: PatchPyramid,
    std: Float[Tensor, "3 1 1"] | None = None,
) -> Float[Tensor, "B cells"]:
    """`cell_means` of `mean_change`; of bytes on a CPU by one pass of `cell_change.c`."""
    bytes_in = frames.dtype == others.dtype == torch.uint8 and frames.device.type == "cpu"
    if bytes_in and (kernel := changes_kernel(pyramid)) is not None:
        return kernel(frames, others, std)
    return changes_by_torch(frames, others, pyramid, std)


def changes_by_torch(
    frames: Shaped[Tensor, "B 3 S S"],
    others: Shaped[Tensor, "B 3 S S"],
    pyramid: PatchPyramid,
    std: Float[Tensor, "3 1 1"] | None,
) -> Float[Tensor, "B cells"]:
    """The same by PyTorch's operators, on any device and of any type."""
    return cell_means(mean_change(frames, others, std), pyramid)


def kept_frame(clips: Clips) -> Shaped[Tensor, "B 3 S S"]:
    """One frame of every clip to be compared later, bytes as bytes: a quarter of the memory."""
    bytes_in = clips.frames.dtype == torch.uint8
    return clips.frames[:, 0].clone() if bytes_in else clips.unit()[:, 0]


def mean_change(
    frames: Shaped[Tensor, "B 3 S S"],
    others: Shaped[Tensor, "B 3 S S"],
    std: Float[Tensor, "3 1 1"] | None = None,
) -> Float[Tensor, "B S S"]:
    """Mean over the channels of |frame - other|, divided by `std` first; uint8 or floats in [0, 1]."""
    if frames.device.type != "cpu":
        return _change(frames, others, std).mean(dim=1)
    change = torch.empty(frames.shape[0], *frames.shape[2:])
    for frame, other, out in zip(frames, others, change, strict=True):  # one stays in the cache
        torch.mean(_change(frame, other, std), dim=0, out=out)
    return change


def _change(
    frame: Shaped[Tensor, "*batch 3 S S"],
    other: Shaped[Tensor, "*batch 3 S S"],
    std: Float[Tensor, "3 1 1"] | None,
) -> Float[Tensor, "*batch 3 S S"]:
    pictures = (x.float().div(255) if x.dtype == torch.uint8 else x for x in (frame, other))
    change = torch.sub(*pictures).abs_()
    return change if std is None else change.div_(std)


def highest_cells(
    scores: Float[Tensor, "B cells"], threshold: Float[Tensor, "B 1"] | float, pyramid: PatchPyramid
) -> list[Int[Tensor, " _"]]:
    """Ids of the cells above the threshold, highest first, ties by id.

    Every clip gets at least one: where no cell is above, its highest.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True) + pyramid.offsets[-1]
    counts = (scores > threshold).sum(dim=-1).clamp(min=1).tolist()
    return [row[:count] for row, count in zip(order, counts, strict=True)]


@lru_cache(maxsize=256)
def whole_frame(pyramid: PatchPyramid, cap: int) -> Int[Tensor, " n"]:
    """At most `cap` ids that cover a frame.

    All cells of the finest scale that fits, and the rest of the cap spread evenly over the cells
    of the next scale.
    """
    fitting = [level for level, cells in enumerate(pyramid.cells) if cells <= cap]
    level = fitting[-1] if fitting else -1
    whole = pyramid.cells[level] if fitting else 0
    with torch.inference_mode(False):
        ids = torch.arange(whole) + (pyramid.offsets[level] if fitting else 0)
        if level + 1 == len(pyramid.cells):
            return ids
        rest, cells = cap - whole, pyramid.cells[level + 1]
        # The middles of `rest` equal intervals of the cells.
        spread = (2 * torch.arange(rest) + 1) * cells // (2 * max(1, rest))
        return torch.cat([ids, spread[:cells] + pyramid.offsets[level + 1]])


@lru_cache(maxsize=64)
def _averaging(pyramid: PatchPyramid, device: torch.device) -> Float[Tensor, "g S"]:
    """Row i is 1 / width on the pixels of cell i of one axis."""
    with torch.inference_mode(False):
        edges = torch.tensor(pyramid.pixel_edges(pyramid.side))
        pixels = torch.arange(pyramid.side)
        inside = (pixels >= edges[:-1, None]) & (pixels < edges[1:, None])
        return (inside / inside.sum(dim=-1, keepdim=True)).to(device, torch.float32)


SOURCE = Path(__file__).with_name("cell_change.c")

log = logging.getLogger(__name__)


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
def changes_kernel(pyramid: PatchPyramid) -> CellChange | None:
    """The kernel of a pyramid; None where it has other results than PyTorch, or cannot be had."""
    try:
        kernel = CellChange(pyramid)
        noise = np.random.default_rng(0)
        for clips in (1, 3):
            shape = (2, clips, 3, pyramid.side, pyramid.side)
            frames, others = torch.from_numpy(noise.integers(0, 256, shape, np.uint8))
            for std in (None, torch.tensor([0.25, 0.2, 0.225]).view(3, 1, 1)):
                expected = changes_by_torch(frames, others, pyramid, std)
                if not torch.equal(kernel(frames, others, std), expected):
                    raise NotBuiltError("the compiled kernel gives other numbers than PyTorch")
    except NotBuiltError as error:
        log.debug("changes of cells: torch (%s)", error)
        return None
    return kernel
