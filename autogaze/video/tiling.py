"""Tiling: frames of any size cut into square tiles, the clips of selectors.

A frame is resized as little as the mode allows and laid out on a grid of tiles, so that a 4K
video keeps its detail and a small one costs one tile.

Padding is mid grey, 128, the same in every frame and as the canvas before the first frame, so that
no selector gains by patches there.
"""

import re
from collections.abc import Sequence
from math import log

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from autogaze.checks import describe_value, whole
from autogaze.errors import GeometryError
from autogaze.source import TileGrid
from autogaze.video.native_tiling import tile_cutter

MOST_TILES = 4096
"""The most tiles per frame that may be asked for by number: 16 frames of them take 10 GB."""

PADDING = 128

DISTORTION_WEIGHT = 4
"""How much worse a changed aspect ratio is than a changed resolution (see `plan_tiles`)."""


def plan_tiles(
    width: int, height: int, side: int, tiles: str = "resize", max_tiles: int | None = None
) -> TileGrid:
    """Lay frames of `width` x `height` pixels out on square tiles.

    Args:
        width, height: displayed pixels of the frames.
        side: pixels of a tile.
        tiles: one of

            - "one": the whole frame resized to a single tile;
            - "resize": resized to fill C x R whole tiles, those with the smallest
              4 |ln(C h / R w)| + |ln(C s / w)| + |ln(R s / h)|, which is little
              distortion first and close to native resolution second (fewer tiles break
              ties);
            - "pad": native resolution, aspect kept, the right and bottom tiles padded;
              a frame that fits into one tile is scaled up until it touches two of
              its borders;
            - "CxR", such as "3x2": resized to fill exactly that many.
        max_tiles: bound on the tiles; the frame is scaled down to meet it.

    Raises:
        GeometryError: a size below 1, an unknown mode, or a bound that cannot be met.
    """
    if min(width, height, side) < 1:
        raise GeometryError(
            f"frame and tile sides must be at least 1 pixel, got {width} x {height} and {side}"
        )
    if max_tiles is not None:
        bound = None if isinstance(max_tiles, float) else whole(max_tiles)
        if bound is None or bound < 1:
            raise GeometryError(f"max_tiles must be at least 1, got {describe_value(max_tiles)}")
        max_tiles = bound
    if not isinstance(tiles, str):
        raise GeometryError(
            f"tiles must be 'one', 'resize', 'pad' or columns x rows like '3x2', got {describe_value(tiles)}"
        )
    if tiles == "pad":
        return _padded(width, height, side, max_tiles)
    if tiles == "one":
        columns, rows = 1, 1
    elif tiles == "resize":
        columns, rows = _nearest_grid(width, height, side, max_tiles)
    elif match := re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", tiles):
        columns, rows = int(match[1]), int(match[2])
        if columns * rows > MOST_TILES:
            raise GeometryError(f"tiles={tiles!r} are more than the {MOST_TILES} that are possible")
        if max_tiles is not None and columns * rows > max_tiles:
            raise GeometryError(f"tiles={tiles!r} are more than max_tiles={max_tiles}")
    else:
        raise GeometryError(
            f"tiles must be 'one', 'resize', 'pad' or columns x rows like '3x2', got {describe_value(tiles)}"
        )
    return TileGrid(width, height, columns, rows, side, columns * side, rows * side)


def _nearest_grid(width: int, height: int, side: int, max_tiles: int | None) -> tuple[int, int]:
    def cost(grid: tuple[int, int]) -> tuple[float, int]:
        across, down = log(grid[0] * side / width), log(grid[1] * side / height)
        distortion, resolution = abs(across - down), abs(across) + abs(down)
        return round(DISTORTION_WEIGHT * distortion + resolution, 9), grid[0] * grid[1]

    most_columns, most_rows = -(-width // side), -(-height // side)
    limit = most_columns * most_rows if max_tiles is None else max_tiles
    grids = (
        (columns, rows)
        for columns in range(1, min(most_columns, limit) + 1)
        for rows in range(1, min(most_rows, limit // columns) + 1)
    )
    return min(grids, key=cost)


def _padded(width: int, height: int, side: int, max_tiles: int | None) -> TileGrid:
    scale = max(1.0, min(side / width, side / height))
    columns, rows = -(-round(width * scale) // side), -(-round(height * scale) // side)
    if max_tiles is not None and columns * rows > max_tiles:
        scale = max(
            min(columns * side / width, max_tiles // columns * side / height)
            for columns in range(1, max_tiles + 1)
        )
    content_width = max(1, round(width * scale))
    content_height = max(1, round(height * scale))
    columns, rows = -(-content_width // side), -(-content_height // side)
    return TileGrid(width, height, columns, rows, side, content_width, content_height)


def cut_tiles(
    pixels: UInt8[np.ndarray, "T H W 3"] | Sequence[UInt8[np.ndarray, "H W 3"]], tiles: TileGrid
) -> UInt8[Tensor, "tiles T 3 S S"]:
    """Resize frames as planned and cut them; tile number = row * columns + column.

    Frames are taken one by one, so that no more than one resized frame exists at once.

    Raises:
        GeometryError: frames of another size than the plan's.
    """
    cut = empty_tiles(tiles, len(pixels))
    for time, frame in enumerate(pixels):
        cut_frame(frame, tiles, cut[:, time])
    return cut


def empty_tiles(
    tiles: TileGrid, num_frames: int, *, pinned: bool = False
) -> UInt8[Tensor, "tiles T 3 S S"]:
    """Uninitialised tiles of some frames, if wanted in page-locked memory, as GPUs read it fastest."""
    shape = (tiles.num_tiles, num_frames, 3, tiles.side, tiles.side)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)


def cut_frame(
    pixels: UInt8[np.ndarray, "H W 3"], tiles: TileGrid, out: UInt8[Tensor, "tiles 3 S S"]
) -> None:
    """Cut one frame into `out`, on the CPU."""
    if pixels.shape != (tiles.height, tiles.width, 3):
        raise GeometryError(
            f"expected frames of {tiles.width} x {tiles.height} pixels as planned, got an array of "
            f"{tuple(pixels.shape)}"
        )
    if pixels.flags.c_contiguous and out[0].is_contiguous() and (cutter := tile_cutter(tiles)):
        cutter(pixels, out)
        return
    content = resize(pixels, tiles.content_width, tiles.content_height)
    grid = out.view(tiles.rows, tiles.columns, 3, tiles.side, tiles.side)
    if not tiles.padded:
        sides = (3, tiles.rows, tiles.side, tiles.columns, tiles.side)
        grid.copy_(content.reshape(sides).permute(1, 3, 0, 2, 4))
        return
    for row in range(tiles.rows):
        for column in range(tiles.columns):
            left, top = tiles.origin(row * tiles.columns + column)
            part = content[:, top : top + tiles.side, left : left + tiles.side]
            tile = grid[row, column]
            tile[:, : part.shape[1], : part.shape[2]] = part
            tile[:, part.shape[1] :] = PADDING
            tile[:, :, part.shape[2] :] = PADDING


def resize(
    pixels: UInt8[np.ndarray, "H W 3"], width: int, height: int
) -> UInt8[Tensor, "3 height width"]:
    """Antialiased bilinear resize of 8-bit pixels, without going through floats.

    PyTorch's 8-bit kernel and Pillow's give the same pixels to within rounding;
    PyTorch's took a fifth of the time (1080p and 4K, two cores) and uses all of them.
    """
    frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    if (width, height) == (frame.shape[2], frame.shape[1]):
        return frame
    size = (height, width)
    return interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def stitch_tiles(
    cut: UInt8[Tensor, "tiles T 3 S S"], tiles: TileGrid
) -> UInt8[np.ndarray, "T content_height content_width 3"]:
    """The resized frames put together from their tiles, without padding.

    Raises:
        GeometryError: tiles of another number or side than the plan's.
    """
    expected = (tiles.num_tiles, 3, tiles.side, tiles.side)
    if (cut.shape[0], *cut.shape[2:]) != expected:
        raise GeometryError(
            f"expected tiles (tiles, T, 3, S, S) of {tiles}, got {tuple(cut.shape)}"
        )
    grid = cut.reshape(tiles.rows, tiles.columns, -1, 3, tiles.side, tiles.side)
    canvas = grid.permute(2, 0, 4, 1, 5, 3)  # T, row, y, column, x, channel
    whole = canvas.reshape(-1, tiles.rows * tiles.side, tiles.columns * tiles.side, 3)
    content = whole[:, : tiles.content_height, : tiles.content_width]
    return content.cpu().numpy()
