"""Motion maps: how far every cell of a frame moved, by the decoder's motion vectors.

Inter-coded streams carry a motion vector for every block, which FFmpeg exports while decoding, so
they cost next to nothing.

With FFmpeg 8 and the codecs in `CODECS`: blocks are 8 x 8 or 16 x 16
pixels on an 8-pixel grid; a skipped block has a vector of length zero; a block *without* a vector
is intra-coded, so its content is new; a frame without any vector (a key frame, say) is new as a
whole. The length counts from the reference frame, which a B-frame or a frame with several
references may have further away than the frame before.
"""

from dataclasses import dataclass, replace

import av
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.errors import GeometryError, VideoError
from autogaze.source import TileGrid
from autogaze.video.frames import Orientation, side_data

NEW_CONTENT = 1e4
"""Motion in pixels of blocks that are new instead of moved, longer than any vector."""

BLOCK = 8
"""Side of a block in pixels; every exported vector covers whole blocks."""

CODECS = (
    "h264",
    "mpeg4",
    "mpeg2video",
    "mpeg1video",
    "h263",
    "flv1",
    "msmpeg4v2",
    "msmpeg4v3",
    "wmv1",
    "wmv2",
)
"""Codecs whose decoders export motion vectors."""


def check_motion(codec: str, path: object) -> None:
    """Raise `VideoError` unless the decoder of `codec` exports motion vectors."""
    if codec not in CODECS:
        raise VideoError(
            f"{path}: the {codec} decoder exports no motion vectors (known to do so: "
            f"{', '.join(CODECS)}); use another selector, or convert the video to H.264"
        )


@dataclass(frozen=True, eq=False)
class MotionField:
    """Vector lengths of one frame's blocks, oriented as the frame is displayed.

    Args:
        lengths: (rows, columns) mean length in pixels of the vectors of every 8 x 8
            block, in [0, NEW_CONTENT].
        width, height: displayed pixels of the frame.
        block: displayed width and height of a block.
        flip_x, flip_y: whether an incomplete block at the frame's border is the first instead
            of the last one.
    """

    lengths: Float[np.ndarray, "rows columns"]
    width: int
    height: int
    flip_x: bool = False
    flip_y: bool = False
    block: tuple[float, float] = (BLOCK, BLOCK)

    @classmethod
    def of(
        cls, frame: av.VideoFrame, orientation: Orientation, size: tuple[int, int] | None = None
    ) -> "MotionField":
        """The motion of a decoded frame, which is resized to `size` before it is oriented."""
        wide, high = size or (frame.width, frame.height)
        zoom = wide / frame.width, high / frame.height
        lengths = block_lengths(_vectors(frame), frame.width, frame.height, zoom)
        block = orientation.size(BLOCK * zoom[0], BLOCK * zoom[1])
        return cls(
            np.ascontiguousarray(orientation.apply(lengths)),
            *orientation.size(wide, high),
            orientation.flip_x,
            orientation.flip_y,
            block,
        )

    def plus(self, other: "MotionField") -> "MotionField":
        """The motion over two consecutive frames."""
        if self.lengths.shape != other.lengths.shape:
            return self.all_new()
        return replace(self, lengths=np.minimum(self.lengths + other.lengths, NEW_CONTENT))

    def still(self) -> "MotionField":
        """The motion of the same frame again."""
        return replace(self, lengths=np.zeros_like(self.lengths))

    def all_new(self) -> "MotionField":
        """The motion of a frame whose blocks are all new."""
        return replace(self, lengths=np.full_like(self.lengths, NEW_CONTENT))


def _vectors(frame: av.VideoFrame) -> np.ndarray | None:
    """FFmpeg's AVMotionVector records, or None for a frame that has none."""
    vectors = side_data(frame, "MOTION_VECTORS")
    return None if vectors is None or len(vectors) == 0 else vectors.to_ndarray()


def block_lengths(
    vectors: np.ndarray | None, width: int, height: int, zoom: tuple[float, float] = (1.0, 1.0)
) -> Float[np.ndarray, "rows columns"]:
    """Mean vector length in pixels of every 8 x 8 block; NEW_CONTENT where there is none.

    Lengths are in displayed pixels, `zoom` of which are as wide and as high as a stored one.
    """
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    if vectors is None:
        return np.full((rows, columns), NEW_CONTENT, dtype=np.float32)
    scale = np.maximum(vectors["motion_scale"], 1).astype(np.float32)
    across, down = vectors["motion_x"], vectors["motion_y"]
    if zoom != (1.0, 1.0):
        across, down = across * zoom[0], down * zoom[1]
    length = np.hypot(across, down, dtype=np.float32) / scale
    wide, high = vectors["w"] > BLOCK, vectors["h"] > BLOCK
    left = (vectors["dst_x"] - np.where(wide, BLOCK, BLOCK // 2)) // BLOCK
    top = (vectors["dst_y"] - np.where(high, BLOCK, BLOCK // 2)) // BLOCK
    # Codecs code whole blocks of 16 pixels, which may extend over the border.
    stride, size = columns + 2, (rows + 2) * (columns + 2)
    first = np.clip(top, 0, rows).astype(np.int32) * stride + np.clip(left, 0, columns)
    total, count = np.zeros(size), np.zeros(size)
    # A vector covers one, two or four blocks: the first, its right, lower and lower right.
    for offset, covers in ((0, slice(None)), (1, wide), (stride, high), (stride + 1, wide & high)):
        block = first[covers] + offset
        total += np.bincount(block, length[covers], minlength=size)
        count += np.bincount(block, minlength=size)
    mean = np.where(count > 0, total / np.maximum(count, 1), NEW_CONTENT)
    return mean.reshape(rows + 2, stride)[:rows, :columns].astype(np.float32)


def motion_map(motion: MotionField, tiles: TileGrid, grid: int) -> Float[Tensor, "tiles grid grid"]:
    """Motion of every cell of every tile, in source pixels, float32.

    The mean of the block lengths under a cell, weighted by shared area, in
    [0, NEW_CONTENT]; 0 for cells of padding. A cell is a square of `tiles.side / grid`
    pixels of the tile.

    Raises:
        GeometryError: the tiling is for frames of another size.
    """
    if (motion.width, motion.height) != (tiles.width, tiles.height):
        raise GeometryError(
            f"motion of a {motion.width} x {motion.height} frame does not fit a tiling of "
            f"{tiles.width} x {tiles.height}"
        )
    if grid < 1:
        raise GeometryError(f"grid must be at least 1 cell, got {grid}")
    cell = tiles.side / grid
    rows = _cell_edges(tiles.height, tiles.content_height, cell, tiles.rows * grid)
    columns = _cell_edges(tiles.width, tiles.content_width, cell, tiles.columns * grid)
    cells = _means(motion.lengths, rows, motion.height, motion.flip_y, motion.block[1])
    cells = _means(cells.T, columns, motion.width, motion.flip_x, motion.block[0]).T
    parts = cells.reshape(tiles.rows, grid, tiles.columns, grid).swapaxes(1, 2)
    return torch.from_numpy(parts.reshape(tiles.num_tiles, grid, grid).astype(np.float32))


def _cell_edges(
    size: int, content: int, cell: float, num_cells: int
) -> Float[np.ndarray, " edges"]:
    """Borders of the cells along one axis, in source pixels."""
    return np.minimum(np.arange(num_cells + 1) * cell * size / content, size)


def _means(
    lengths: Float[np.ndarray, "blocks others"],
    edges: Float[np.ndarray, " edges"],
    size: int,
    flipped: bool,
    block_side: float,
) -> Float[np.ndarray, "cells others"]:
    """Mean over the pixels between two edges, along the first axis; 0 between equal ones.

    Computed by differences of the running sum, which is linear inside a block.
    """
    borders = np.minimum(np.arange(len(lengths) + 1) * block_side, size).astype(np.float64)
    if flipped:
        borders = size - borders[::-1]
    running = np.zeros((len(borders), lengths.shape[1]))
    np.cumsum(lengths * np.diff(borders)[:, None], axis=0, out=running[1:])
    block = np.clip(np.searchsorted(borders, edges, side="right") - 1, 0, len(lengths) - 1)
    inside = (edges - borders[block])[:, None] * lengths[block]
    pixels = np.diff(edges)[:, None]
    return np.diff(running[block] + inside, axis=0) / np.where(pixels > 0, pixels, 1)
