"""Which patch each pixel of a picture belongs to, worked out once a video.

Painting then is one look-up a scale and frame, however many patches were chosen.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from autogaze.geometry import PatchPyramid
from autogaze.source import TileGrid


def display_size(tiles: TileGrid, longest: int, shortest: int = 0) -> tuple[int, int]:
    """Width and height (both even) of a picture of the source.

    The source's own size, shrunk until its longer side is at most `longest`, or
    enlarged until that side is at least `shortest`, so that captions stay legible.
    """
    side = max(tiles.width, tiles.height)
    zoom = min(longest / side, max(1.0, shortest / side))

    def even(length: int) -> int:
        return max(2, 2 * round(length * zoom / 2))

    return even(tiles.width), even(tiles.height)


@dataclass(frozen=True)
class PatchMap:
    """The patches of one scale on a picture of H x W pixels.

    Args:
        cells: (H, W) number of the pixel's patch: tile * cells + row * grid + column;
            -1 where no patch of this scale reaches (see `PatchPyramid.crop`).
        edges: (H, W) True on the inner border of a patch.
        num_cells: tiles * cells, the number of patches.
    """

    cells: Int[np.ndarray, "H W"]
    edges: Bool[np.ndarray, "H W"]
    num_cells: int

    def pick(self, chosen: Bool[np.ndarray, " cells"]) -> Bool[np.ndarray, "H W"]:
        """True on the pixels of the chosen patches."""
        return np.append(chosen, False)[self.cells]  # the -1 of uncovered pixels finds the False


def patch_maps(
    pyramid: PatchPyramid, tiles: TileGrid, width: int, height: int, line: int = 1
) -> tuple[PatchMap, ...]:
    """One map a scale, coarse to fine, for a picture of `width` x `height` pixels.

    Args:
        pyramid: the patches.
        tiles: how the source was tiled.
        width: of the picture, which shows the whole source.
        height: likewise.
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
    """Tile and cell of every pixel along one axis; a cell of `grid` or more is no patch's.

    Tiles of `side` pixels hold `content` pixels, which the axis shows on `length` pixels.
    """
    centres = (np.arange(length) + 0.5) * content / length
    tile = np.floor(centres / side).astype(np.int64)
    cell = (centres - tile * side) / side * scale / pyramid.patch_size
    return tile, np.floor(cell).astype(np.int64)


def _border(number: Int[np.ndarray, " L"], line: int) -> Bool[np.ndarray, " L"]:
    """True within `line` pixels of where the number changes or the picture ends."""
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    ends = np.append(starts[1:], len(number))
    border = np.zeros(len(number), dtype=bool)
    for start, end in zip(starts, ends, strict=True):
        inset = min(line, max(1, (end - start) // 4))  # leave the middle of small patches to see
        border[start : start + inset] = True
        border[end - inset : end] = True
    return border
