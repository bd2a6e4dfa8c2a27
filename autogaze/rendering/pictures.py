"""From tiles to pictures: stitching, resizing, and letters on them."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.reconstruction.views import scale_views
from autogaze.source import TileGrid
from autogaze.video.tiling import stitch_tiles

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
