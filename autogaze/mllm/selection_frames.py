"""Selection frames: a video made small for a selector, one finest cell (16 pixels) per unit.

They are cut into tiles, the clips of selectors. What a tile has beyond the frame, on the right and at
the bottom, is mid grey; there are no units there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from autogaze.checks import describe_value
from autogaze.clips import Clips
from autogaze.errors import MLLMError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY
from autogaze.source import TileGrid
from autogaze.video.tiling import PADDING, empty_tiles

if TYPE_CHECKING:
    from autogaze.video.motion import MotionField

PADDING_LOSS = abs(PADDING / 255 - GREY)
"""Canvas loss of padding that was not looked at: half a level of 255."""


@dataclass(frozen=True, eq=False)
class MovingFrames:
    """Frames with their motion, for selectors that read motion vectors (`codec`).

    Args:
        frames: (n, 3, H, W) uint8.
        motion: of every frame, as the decoder tells it (`Frame.motion` of `autogaze.video`).
    """

    frames: UInt8[Tensor, "n 3 H W"]
    motion: "tuple[MotionField, ...]"

    def __post_init__(self) -> None:
        if len(self.motion) != len(self.frames):
            raise MLLMError(
                f"motion of {len(self.motion)} frames was given with {len(self.frames)} frames"
            )


def selection_tiles(
    width: int, height: int, units: tuple[int, int], pyramid: PatchPyramid
) -> TileGrid:
    """The tiling of selection frames.

    Args:
        width, height: pixels of the video's frames.
        units: rows and columns of the model's frame.
        pyramid: of the selector, whose finest cells are units.

    Raises:
        MLLMError: a pyramid whose finest cells do not fill its frame in whole pixels.
    """
    cells, side = pyramid.grids[-1], pyramid.side
    if pyramid.crop or side % cells:
        raise MLLMError(
            f"the finest cells of {pyramid} do not fill its frame, so they are no units; take a "
            "selector with another pyramid, such as PatchPyramid((224,), 16)"
        )
    cell = side // cells
    rows, columns = units
    across, down = -(-columns // cells), -(-rows // cells)
    return TileGrid(width, height, across, down, side, columns * cell, rows * cell)


def selection_clips(
    chunks: Iterable[Any], units: tuple[int, int], pyramid: PatchPyramid, size: int
) -> Iterator[tuple[Clips, TileGrid]]:
    """Clips of `size` frames (the last may have fewer), one per tile, of frames in any chunks.

    Raises:
        MLLMError: frames that are not uint8 (n, 3, H, W), of several sizes, or with motion only
            for some.
    """
    tiles: TileGrid | None = None
    cut = torch.empty(0)
    motion: list[Tensor] = []
    filled = 0
    for frames, fields in map(_checked, chunks):
        height, width = frames.shape[2:]
        if tiles is None:
            tiles = selection_tiles(width, height, units, pyramid)
        if (tiles.width, tiles.height) != (width, height):
            raise MLLMError(
                f"frames of one video are of one size, got {tiles.width} x {tiles.height} and then "
                f"{width} x {height}"
            )
        done = 0
        while done < len(frames):
            if not filled:
                cut = empty_tiles(tiles, size)
            count = min(size - filled, len(frames) - done)
            cut_frames(frames[done : done + count], tiles, cut[:, filled : filled + count])
            motion += _motion(fields[done : done + count], tiles, pyramid.grids[-1])
            done, filled = done + count, filled + count
            if filled == size:
                yield _clips(cut, motion), tiles
                motion, filled = [], 0
    if tiles is not None and filled:
        yield _clips(cut[:, :filled], motion), tiles


def cut_frames(
    frames: UInt8[Tensor, "n 3 H W"], tiles: TileGrid, out: UInt8[Tensor, "tiles n 3 S S"]
) -> None:
    """Resize frames as planned, all at once, and cut them into `out`."""
    size = (tiles.content_height, tiles.content_width)
    if tuple(frames.shape[2:]) != size:
        frames = interpolate(frames, size=size, mode="bilinear", antialias=True)
    side = tiles.side
    for tile in range(tiles.num_tiles):
        left, top = tiles.origin(tile)
        part = frames[:, :, top : top + side, left : left + side]
        high, wide = part.shape[2:]
        out[tile, :, :, :high, :wide] = part
        out[tile, :, :, high:] = PADDING
        out[tile, :, :, :, wide:] = PADDING


def real_cells(tiles: TileGrid, cells: int) -> Bool[Tensor, "tiles cells"]:
    """Which finest cells of every tile lie on the frame; a tile has `cells` along its side."""
    cell = tiles.side // cells
    down = torch.arange(tiles.rows * cells) < tiles.content_height // cell
    across = torch.arange(tiles.columns * cells) < tiles.content_width // cell
    grid = (down[:, None] & across).view(tiles.rows, cells, tiles.columns, cells)
    return grid.transpose(1, 2).reshape(tiles.num_tiles, cells**2)


def _checked(chunk: Any) -> tuple[Tensor, tuple["MotionField", ...]]:
    """Frames of a chunk, on the CPU, and their motion."""
    moving = isinstance(chunk, MovingFrames)
    frames = chunk.frames if moving else chunk
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 4:
        what = (
            f"{tuple(frames.shape)} {frames.dtype}"
            if isinstance(frames, Tensor)
            else describe_value(frames)
        )
        raise MLLMError(f"frames come in chunks of uint8 (n, 3, height, width), got {what}")
    if frames.shape[1] != 3 or 0 in frames.shape[2:]:
        raise MLLMError(
            f"frames come in chunks of uint8 (n, 3, height, width), got {tuple(frames.shape)}"
        )
    return frames.cpu(), tuple(chunk.motion) if moving else ()


def _motion(fields: tuple["MotionField", ...], tiles: TileGrid, cells: int) -> list[Tensor]:
    """Motion maps (tiles, cells, cells) of frames."""
    if not fields:
        return []
    from autogaze.video.motion import motion_map  # PyAV

    # Blocks lie in source pixels; the frames beside them may have been resized.
    return [
        motion_map(field, replace(tiles, width=field.width, height=field.height), cells)
        for field in fields
    ]


def _clips(cut: UInt8[Tensor, "tiles n 3 S S"], motion: list[Tensor]) -> Clips:
    if motion and len(motion) != cut.shape[1]:
        raise MLLMError(
            f"motion came with {len(motion)} of {cut.shape[1]} frames; give all or none"
        )
    return Clips(cut, torch.stack(motion, dim=1) if motion else None)
