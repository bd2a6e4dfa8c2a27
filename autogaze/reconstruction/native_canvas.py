"""Canvas losses on a CPU: `canvas_loss.c`, compiled on the machine that runs it.

It measures clips of 8-bit frames without making whole pictures of every scale: 100 times as fast as
painting in Python, and equal to that within the rounding of float32.
"""

import ctypes
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.resample import HALO, down_matrix, up_matrix
from autogaze.utils.kernels import (
    Kernel,
    NotBuiltError,
    built_kernel,
    c_struct,
    load_library,
    parallel_address,
    suitable_kernel,
)

SWITCH = "AUTOGAZE_CANVAS"
"""Environment variable: "torch", "native" (an error where it cannot be had) or not set."""

SOURCE = Path(__file__).with_name("canvas_loss.c")

GREY = 127.5
"""Initial value of all pixels, in grey levels."""

TAPS = 4
"""Pixels that bicubic interpolation mixes along an axis."""


def canvas_kernel(frames: Tensor) -> "Kernel[Library]":
    """What measures canvas losses of frames like these: canvas_loss.c, or PyTorch and NumPy.

    Raises:
        SelectorError: AUTOGAZE_CANVAS has an unknown value, or asks for a kernel that is not
            available.
    """
    unsuitable = None
    if frames.device.type != "cpu" or frames.dtype != torch.uint8:
        unsuitable = f"ours is for uint8 on a CPU, not {frames.dtype} on {frames.device}"
    return suitable_kernel(SWITCH, unsuitable, _built)


@cache
def _built() -> "Kernel[Library]":
    return built_kernel(_checked, SOURCE)


def _checked(path: Path) -> "Library":
    """The kernel; NotBuiltError unless a loss is right: compilers have bugs."""
    library = Library(path)
    pyramid = PatchPyramid((16, 32), 16)
    frames = torch.arange(3 * 32 * 32, dtype=torch.int64).remainder(251).to(torch.uint8)
    frames = frames.view(1, 1, 3, 32, 32)
    gazed = torch.zeros(1, 1, pyramid.num_patches, dtype=torch.bool)
    gazed[..., 1] = True  # the upper left quarter; the rest stays grey
    off = (frames[0, 0].double() - GREY).abs()
    off[:, :16, :16] = 0
    found = library.measure(pyramid, frames, gazed, np.ones(1, np.uint8), new_canvases(pyramid, 1))
    if abs(float(found) - float(off.mean()) / 255) > 1e-6:
        raise NotBuiltError("the compiled kernel gives wrong results")
    return library


def new_canvases(pyramid: PatchPyramid, num_clips: int) -> Float32[np.ndarray, "B 3 S S"]:
    """Memory for canvases, in grey levels; a restart fills it."""
    return np.empty((num_clips, 3, pyramid.side, pyramid.side), np.float32)


_Level = c_struct(  # of canvas_loss.c
    """
    int32 scale grid
    pointer edges first past shares around weights
    """
)
_Work = c_struct(
    """
    pointer parallel
    int32 threads levels side patches
    int64 clips frames
    pointer level pixels
    int64 clip_step frame_step
    pointer gazed restarts canvases scratch losses pictures
    """
)


class Library:
    """The compiled kernel.

    Raises:
        NotBuiltError: it cannot be loaded, or PyTorch's threads cannot be had.
    """

    def __init__(self, path: Path) -> None:
        self._measure = load_library(path).measure
        self._measure.argtypes, self._measure.restype = [ctypes.c_void_p], None
        self._parallel = parallel_address()

    def measure(
        self,
        pyramid: PatchPyramid,
        frames: UInt8[Tensor, "B T 3 S S"],
        gazed: Bool[Tensor, "B T V"],
        restarts: UInt8[np.ndarray, " T"],
        canvases: Float32[np.ndarray, "B 3 S S"],
        pictures: UInt8[Tensor, "B T 3 S S"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """The loss of every frame, in [0, 1]; canvases go on where they were.

        Args:
            frames: of the pyramid's side.
            gazed: True where a patch is gazed at.
            restarts: 1 where the canvas begins again in grey.
            canvases: in grey levels; they are painted over.
            pictures: where to put the canvas after every frame, without gaps in memory.
        """
        side = pyramid.side
        if frames.stride()[2:] != (side * side, side, 1):
            frames = frames.contiguous()
        clips, num_frames = frames.shape[:2]
        gazed = gazed.contiguous()
        threads = min(torch.get_num_threads(), clips)
        scratch = np.empty((threads, 2, 3, side, side), np.float32)
        losses = torch.empty(clips, num_frames)
        levels = _levels(pyramid)
        work = _Work(
            self._parallel,
            threads,
            len(pyramid.scales),
            side,
            pyramid.num_patches,
            clips,
            num_frames,
            ctypes.addressof(levels.array),
            frames.data_ptr(),
            frames.stride(0),
            frames.stride(1),
            gazed.data_ptr(),
            restarts.ctypes.data,
            canvases.ctypes.data,
            scratch.ctypes.data,
            losses.data_ptr(),
            None if pictures is None else pictures.data_ptr(),
        )
        self._measure(ctypes.addressof(work))
        return losses


class _Levels:
    """The levels of a pyramid in the form that the kernel reads, and the arrays that it points to."""

    def __init__(self, pyramid: PatchPyramid) -> None:
        self._arrays: list[np.ndarray] = []
        finest = len(pyramid.scales) - 1
        self.array = (_Level * len(pyramid.scales))(
            *(
                _Level(
                    scale,
                    pyramid.grids[level],
                    self._kept(np.array(pyramid.pixel_edges(scale), np.int32)),
                    *(
                        (None,) * 5
                        if level == finest
                        else map(self._kept, _axis(scale, pyramid.side))
                    ),
                )
                for level, scale in enumerate(pyramid.scales)
            )
        )

    def _kept(self, array: np.ndarray) -> int:
        array = np.ascontiguousarray(array)
        self._arrays.append(array)
        return array.ctypes.data


@lru_cache(maxsize=16)
def _levels(pyramid: PatchPyramid) -> _Levels:
    return _Levels(pyramid)


def _axis(
    scale: int, side: int
) -> tuple[
    Int32[np.ndarray, " s"],
    Int32[np.ndarray, " s"],
    Float32[np.ndarray, "s S"],
    Int32[np.ndarray, "S taps"],
    Float32[np.ndarray, "S taps"],
]:
    """How an axis is reduced and enlarged: first, past, shares, around and weights of `Level`."""
    cpu = torch.device("cpu")
    down, up = down_matrix(scale, side, cpu).numpy(), up_matrix(scale, side, cpu).numpy()
    (short, long), num = down.shape, scale // down.shape[0]
    shares = np.zeros((scale, side), np.float32)
    for stretch in range(num):
        rows, columns = slice(stretch * short, (stretch + 1) * short), stretch * long
        shares[rows, columns : columns + long] = down
    under = shares > 0
    first, past = under.argmax(1), side - under[:, ::-1].argmax(1)
    # The pixel of the scale to the upper left of each centre, and one more before it.
    pixels = np.arange(side)
    before = np.floor((pixels + 0.5) * scale / side - 0.5).astype(np.int64) - 1
    taps = before[:, None] + np.arange(TAPS)
    stretch = pixels // long
    places = np.clip(taps - stretch[:, None] * short + HALO, 0, up.shape[1] - 1)
    weights = up[pixels % long, :][np.arange(side)[:, None], places]
    around = np.clip(taps, 0, scale - 1)
    return (
        first.astype(np.int32),
        past.astype(np.int32),
        shares,
        around.astype(np.int32),
        weights.astype(np.float32),
    )
