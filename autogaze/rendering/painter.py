"""Drawing primitives of all pictures: colours, font, stitched tiles, patch maps, overlaid gazes.

A patch map is the index of the patch at every pixel. It is made once per video; drawing is then
one look-up per scale and frame, however many patches were chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageFont
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import repaint
from autogaze.source import TileGrid
from autogaze.video.tiling import stitch_tiles

Colour = tuple[int, int, int]

GROUND: Colour = (16, 18, 22)
PANEL: Colour = (26, 29, 35)
INK: Colour = (232, 234, 237)
FAINT: Colour = (138, 144, 153)

# Coarse to fine; distinguishable in greyscale and with colour blindness.
_RAMP = np.array([(92, 124, 250), (38, 190, 180), (255, 207, 92), (255, 84, 208)], dtype=float)

_MAX_TILES = 16
"""Tiles that are resampled at once: floats take four times the memory."""


def scale_colours(num_scales: int) -> UInt8[np.ndarray, "{num_scales} 3"]:
    """One colour per scale, coarse to fine."""
    at = np.linspace(0, len(_RAMP) - 1, num_scales) if num_scales > 1 else np.array([3.0])
    steps = np.arange(len(_RAMP))
    ramp = [np.interp(at, steps, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(ramp, axis=-1).round().astype(np.uint8)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's default font at a size in pixels."""
    return ImageFont.load_default(size=size)  # type: ignore[return-value]


def percent(share: float) -> str:
    """A share as text in percent, with two decimals below 1 %."""
    return f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def display_size(tiles: TileGrid, longest: int, shortest: int = 0) -> tuple[int, int]:
    """Width and height (both even) of a rendered frame.

    The source's size, scaled so that its longer side is at most `longest` and at least `shortest`.
    """
    side = max(tiles.width, tiles.height)
    zoom = min(longest / side, max(1.0, shortest / side))

    def even(length: int) -> int:
        return max(2, 2 * round(length * zoom / 2))

    return even(tiles.width), even(tiles.height)


def stitched(
    cut: UInt8[Tensor, "N 3 S S"], tiles: TileGrid, size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame put together from its tiles, without padding, resized to (width, height)."""
    return resized(stitch_tiles(cut[:, None], tiles)[0], size)


def resized(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """An image resized to (width, height)."""
    if pixels.shape[1::-1] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def seen_at_scales(
    tiles: UInt8[Tensor, "N 3 S S"], mask: Bool[Tensor, "N V"], pyramid: PatchPyramid
) -> Iterator[UInt8[Tensor, "N 3 S S"]]:
    """For each scale, coarse to fine, tiles whose chosen patches of that scale are as it shows them.

    Args:
        mask: True where a patch is chosen.
    """
    for first, count in zip(pyramid.offsets[:-1], pyramid.cells[:-1], strict=True):
        only = torch.zeros_like(mask)
        only[:, first : first + count] = mask[:, first : first + count]
        if only.any():
            parts = zip(tiles.split(_MAX_TILES), only.split(_MAX_TILES), strict=True)
            yield torch.cat([repaint(part, pyramid, chosen) for part, chosen in parts])
        else:
            yield tiles
    yield tiles  # at the finest scale they are as they are


@dataclass(frozen=True)
class PatchMap:
    """The patches of one scale on an image of H x W pixels.

    Args:
        cells: (H, W) number of the pixel's patch: tile * cells + row * grid + column;
            -1 where no patch of this scale reaches (see `PatchPyramid.crop`).
        edges: (H, W) True on the inner border of a patch.
        num_cells: tiles * cells, the number of patches.
    """

    cells: Int[np.ndarray, "H W"]
    edges: Bool[np.ndarray, "H W"]
    num_cells: int

    def pixels(self, chosen: Bool[np.ndarray, " cells"]) -> Bool[np.ndarray, "H W"]:
        """True on the pixels of the chosen patches."""
        return np.append(chosen, False)[self.cells]  # -1 of uncovered pixels indexes the False


def patch_maps(
    pyramid: PatchPyramid, tiles: TileGrid, width: int, height: int, line: int = 1
) -> tuple[PatchMap, ...]:
    """One map per scale, coarse to fine, for an image of `width` x `height` pixels.

    Args:
        width, height: of the image, which shows the whole source.
        line: width of the border in pixels; thinner in patches too small for it.
    """
    maps = []
    for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True):
        column_tile, column = _axis(pyramid, tiles.side, tiles.content_width, scale, width)
        row_tile, row = _axis(pyramid, tiles.side, tiles.content_height, scale, height)
        tile = row_tile[:, None] * tiles.columns + column_tile[None, :]
        cells = tile * grid * grid + row[:, None] * grid + column[None, :]
        covered = (row < grid)[:, None] & (column < grid)[None, :]
        cells = np.where(covered, cells, -1).astype(np.int32)
        across = _border(column_tile * (grid + 2) + column, line)
        down = _border(row_tile * (grid + 2) + row, line)
        edges = (across[None, :] | down[:, None]) & covered
        maps.append(PatchMap(cells, edges, tiles.num_tiles * grid * grid))
    return tuple(maps)


def _axis(
    pyramid: PatchPyramid, side: int, content: int, scale: int, length: int
) -> tuple[Int[np.ndarray, " {length}"], Int[np.ndarray, " {length}"]]:
    """Tile and cell of every pixel along one axis; a cell of `grid` or more is uncovered.

    Tiles of `side` pixels hold `content` pixels, which the axis shows on `length` pixels.
    """
    centres = (np.arange(length) + 0.5) * content / length
    tile = np.floor(centres / side).astype(np.int64)
    cell = (centres - tile * side) / side * scale / pyramid.patch_size
    return tile, np.floor(cell).astype(np.int64)


def _border(number: Int[np.ndarray, " L"], line: int) -> Bool[np.ndarray, " L"]:
    """True within `line` pixels of where the number changes or the image ends."""
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    ends = np.append(starts[1:], len(number))
    border = np.zeros(len(number), dtype=bool)
    for start, end in zip(starts, ends, strict=True):
        inset = min(line, max(1, (end - start) // 4))  # keep the middle of small patches visible
        border[start : start + inset] = True
        border[end - inset : end] = True
    return border


def draw_overlay(
    frame: UInt8[np.ndarray, "H W 3"],
    chosen: Sequence[Bool[np.ndarray, " _"]],
    maps: Sequence[PatchMap],
    colours: UInt8[np.ndarray, "scales 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame with its gaze drawn on it.

    Args:
        frame: the source's frame.
        chosen: per scale, coarse to fine, which patches of all tiles were chosen.
        maps: per scale, where those patches lie on the frame.
        colours: per scale, of the outlines.
    """
    bright = np.zeros(frame.shape[:2], dtype=bool)
    outline = np.zeros(frame.shape[:2], dtype=np.uint8)  # 1 + level of the line on a pixel
    for level, (patches, where) in enumerate(zip(chosen, maps, strict=True)):
        inside = where.pixels(patches)
        bright |= inside
        outline[inside & where.edges] = level + 1  # finest on top
    drawn = dim(frame)
    np.copyto(drawn, frame, where=bright[..., None])
    lines = outline > 0
    drawn[lines] = colours[outline[lines] - 1]
    return drawn


def dim(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The frame in grey at a quarter of its brightness, for patches not chosen."""
    red, green, blue = (frame[..., channel].astype(np.uint16) for channel in range(3))
    grey = (77 * red + 150 * green + 29 * blue) // 1024 + 8  # weights of BT.601
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
