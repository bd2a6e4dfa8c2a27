"""Which patch each pixel of a picture belongs to, worked out once a video.

Painting then is one look-up a scale and frame, however many patches were chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.reconstruction.resample import scale_views
from autogaze.source import TileGrid
from autogaze.video.tiling import stitch_tiles

# What the pictures show of each frame, gathered over its tiles.


@dataclass(frozen=True)
class FrameFacts:
    """One frame of the source in numbers.

    Args:
        number: of the frame in the decoded stream, from 0.
        seconds: when it is shown.
        kept: chosen patches a scale, coarse to fine.
        total: patches that could have been chosen.
        loss: canvas loss left, mean over the tiles, if it was measured.
    """

    number: int
    seconds: float
    kept: tuple[int, ...]
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class Column:
    """One frame of a sheet: its pictures from top to bottom, its numbers, the lines below."""

    facts: FrameFacts
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]
    foot: tuple[str, ...]


def frame_facts(chunk: GazedChunk) -> Iterator[FrameFacts]:
    """The facts of every frame of a chunk."""
    gaze, source = chunk.gaze, chunk.source
    kept = [mask.sum(dim=(0, 2)).tolist() for mask in gaze.masks()]  # a list of T counts a scale
    losses = None if gaze.losses is None else gaze.losses.mean(dim=0).tolist()
    for index, (number, seconds) in enumerate(
        zip(source.frame_indices, source.timestamps, strict=True)
    ):
        yield FrameFacts(
            number,
            seconds,
            tuple(counts[index] for counts in kept),
            gaze.num_clips * gaze.pyramid.num_patches,
            None if losses is None else losses[index],
        )


def percent(share: float) -> str:
    """A share in words: two decimals below 1 %, since gazes are often that small."""
    return f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def chosen(chunk: GazedChunk, frame: int) -> list[Bool[np.ndarray, " _"]]:
    """A scale each: which patches of one frame were chosen, all tiles after another."""
    return [mask[:, frame].reshape(-1).cpu().numpy() for mask in chunk.gaze.masks()]


# From tiles to pictures: stitching, resizing, and letters on them.

_MAX_TILES = 16


def stitched(
    cut: UInt8[Tensor, "N 3 S S"], tiles: TileGrid, size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame put together from its tiles, without padding, resized to (width, height)."""
    return resized(stitch_tiles(cut[:, None], tiles)[0], size)


def frame_picture(
    chunk: GazedChunk, frame: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame of the source at (width, height), as sharp as the chunk has it."""
    if chunk.pixels is not None:
        return resized(chunk.pixels[frame], size)
    return stitched(chunk.frames[:, frame], chunk.source.tiles, size)


def resized(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    if pixels.shape[1::-1] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def seen_at_scales(
    tiles: UInt8[Tensor, "N 3 S S"], pyramid: PatchPyramid
) -> Iterator[UInt8[Tensor, "N 3 S S"]]:
    """The tiles as each scale shows them, coarse to fine."""
    parts = []
    for part in tiles.split(_MAX_TILES):  # as floats they weigh four times as much
        views = scale_views(part.float() / 255, pyramid)
        parts.append((views * 255).round_().to(torch.uint8))
    yield from torch.cat(parts).unbind(dim=1)


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
