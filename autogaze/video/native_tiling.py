"""Resizing and cutting frames on a CPU: `tile_frame.c`, compiled on the machine that runs it.

A frame is never whole in memory in its new size, as by PyTorch's kernel twice (26 MiB each at 4K), and
takes a third of the time. The bytes are the same, which is tried out for every plan of tiles.
"""

import ctypes
import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from autogaze.source import TileGrid
from autogaze.utils.device import trim_memory
from autogaze.utils.kernels import NotBuiltError, c_struct, parallel_address, struct_function

SOURCE = Path(__file__).with_name("tile_frame.c")

LANES, MOST_TAPS, MOST_BITS = 16, 8, 15
"""Numbers in a vector of tile_frame.c, pixels of one result, and bits of a weight."""

log = logging.getLogger(__name__)


_Axis = c_struct(  # of tile_frame.c
    """
    int32 size source taps
    pointer first weights lanes
    float32 unit
    """
)
_Work = c_struct(
    """
    pointer parallel
    int32 threads side rows columns
    pointer across down pixels tiles
    int64 tile_step
    pointer scratch
    int64 thread_step
    """
)


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Antialiased bilinear weights along one axis, as PyTorch's 8-bit kernel rounds them.

    Args:
        source, size: pixels before and after.
        bits: what the weights of a result sum up to, as a power of two.
        first: (size,) the first pixel that a result is made of.
        weights: (taps, size) of the pixels from there on, whole numbers.
        lanes: (taps, size) these pixels, counted from the first of 16 results.
    """

    source: int
    size: int
    bits: int
    first: Int32[np.ndarray, " size"]
    weights: Float32[np.ndarray, "taps size"]
    lanes: Int32[np.ndarray, "taps size"] = field(init=False)

    def __post_init__(self) -> None:
        starts = np.repeat(self.first[::LANES], LANES)[: self.size]
        lanes = self.first - starts + np.arange(len(self.weights))[:, None]
        object.__setattr__(self, "lanes", lanes.astype(np.int32))

    @classmethod
    def of(cls, source: int, size: int) -> "AxisWeights":
        """The weights of resizing `source` pixels to `size`."""
        scale = source / size
        support = max(1.0, scale)
        centres = scale * (np.arange(size) + 0.5)
        first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
        past = np.minimum((centres + support + 0.5).astype(np.int64), source)
        taps = int((past - first).max())
        pixels = first + np.arange(taps)[:, None]
        shares = np.maximum(1 - np.abs((pixels - centres + 0.5) / support), 0)
        shares[pixels >= past] = 0
        shares /= shares.sum(0)
        used = np.flatnonzero(shares.any(1))[-1] + 1
        bits = 0
        while bits < 22 and int(0.5 + shares.max() * 2 ** (bits + 1)) < 2**15:
            bits += 1
        weights = np.floor(shares[:used] * 2**bits + 0.5).astype(np.float32)
        return cls(source, size, bits, first.astype(np.int32), weights)

    @property
    def is_taken(self) -> bool:
        """Whether sums are exact in floats, and two vectors hold the pixels of 16 results."""
        small = self.bits <= MOST_BITS and len(self.weights) <= MOST_TAPS
        return small and int(self.lanes.max()) < 2 * LANES

    def to_struct(self) -> ctypes.Structure:
        """In the form that the kernel reads, pointing to these arrays."""
        arrays = (self.first, self.weights, self.lanes)
        addresses = (array.ctypes.data for array in arrays)
        struct: ctypes.Structure = _Axis(
            self.size, self.source, len(self.weights), *addresses, 2.0**-self.bits
        )
        return struct


def _axes(tiles: TileGrid) -> tuple[AxisWeights, AxisWeights]:
    """The weights across and down."""
    across = AxisWeights.of(tiles.width, tiles.content_width)
    return across, AxisWeights.of(tiles.height, tiles.content_height)


def is_suitable(tiles: TileGrid) -> bool:
    """Whether the kernel takes frames of this plan."""
    return not tiles.padded and all(axis.is_taken for axis in _axes(tiles))


class TileCutter:
    """Frames of one size cut into the tiles of one plan.

    Raises:
        NotBuiltError: the kernel cannot be built or used here, or not for this plan.
    """

    def __init__(self, tiles: TileGrid) -> None:
        if not is_suitable(tiles):
            raise NotBuiltError("padded tiles, and frames reduced by half, are left to PyTorch")
        self._across, self._down = _axes(tiles)
        self._tiles = tiles
        self._cut = struct_function(SOURCE, "cut")
        self._parallel = parallel_address()
        self._structs = self._across.to_struct(), self._down.to_struct()
        planes = 3 * 4 * (tiles.width + 2 * LANES + MOST_TAPS)
        ring = 3 * tiles.content_width * len(self._down.weights)
        self._thread_step = -(-(planes + ring) // 64) * 64
        self._check()

    def __call__(
        self, pixels: UInt8[np.ndarray, "H W 3"], out: UInt8[Tensor, "tiles 3 S S"]
    ) -> None:
        """Cut one frame, contiguous, into `out`, each of whose tiles is contiguous."""
        tiles = self._tiles
        threads = min(torch.get_num_threads(), tiles.rows)
        # Numbers behind the end of a row count nothing, but must be numbers.
        scratch = np.zeros((threads, self._thread_step), np.uint8)
        work = _Work(
            self._parallel,
            threads,
            tiles.side,
            tiles.rows,
            tiles.columns,
            *(ctypes.addressof(struct) for struct in self._structs),
            pixels.ctypes.data,
            out.data_ptr(),
            out.stride(0),
            scratch.ctypes.data,
            self._thread_step,
        )
        self._cut(work)

    def _check(self) -> None:
        """Raise NotBuiltError unless a frame is cut as PyTorch cuts it."""
        tiles = self._tiles
        noise = np.random.default_rng(0).integers(0, 256, (tiles.height, tiles.width, 3), np.uint8)
        size = tiles.content_height, tiles.content_width
        frame = torch.from_numpy(noise).permute(2, 0, 1)[None]
        whole = interpolate(frame, size=size, mode="bilinear", antialias=True)[0]
        grid = whole.view(3, tiles.rows, tiles.side, tiles.columns, tiles.side)
        cut = grid.permute(1, 3, 0, 2, 4)
        found = torch.empty(tiles.num_tiles, 3, tiles.side, tiles.side, dtype=torch.uint8)
        self(noise, found)
        if not torch.equal(found.view(cut.shape), cut):
            raise NotBuiltError("the compiled kernel gives other bytes than PyTorch's")


@lru_cache(maxsize=8)
def tile_cutter(tiles: TileGrid) -> TileCutter | None:
    """The cutter of a plan; None where PyTorch must do its work."""
    try:
        cutter = TileCutter(tiles)
        trim_memory()  # of trying it out
        return cutter
    except NotBuiltError as error:
        log.debug("tiling: torch (%s)", error)
        return None
