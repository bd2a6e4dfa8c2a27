"""Small gazed chunks made by hand, without a video behind them."""

import torch

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.source import Source, TileGrid

PYRAMID = PatchPyramid((32, 64), 16)  # 4 + 16 patches of a 64-pixel frame
GRID = TileGrid(128, 64, columns=2, rows=1, side=64, content_width=128, content_height=64)


def chunk(
    ids: list[list[list[int]]],
    frames: torch.Tensor | None = None,
    *,
    first: int = 0,
    grid: TileGrid = GRID,
    pyramid: PatchPyramid = PYRAMID,
) -> GazedChunk:
    """A chunk whose gaze takes `ids[tile][frame]`; white frames unless given; loss = frame / 100."""
    num_frames = len(ids[0])
    if frames is None:
        frames = torch.full((len(ids), num_frames, 3, pyramid.side, pyramid.side), 255)
    numbers = tuple(range(first, first + num_frames))
    gaze = Gaze(
        pyramid,
        torch.tensor([patch for tile in ids for frame in tile for patch in frame]).long(),
        torch.tensor([[len(frame) for frame in tile] for tile in ids]),
        losses=torch.tensor([[number / 100 for number in numbers]] * len(ids)),
        metric="canvas",
        source=Source(grid, tuple(number / 10 for number in numbers), numbers, 16, "some/clip.mp4"),
    )
    frames = frames.to(torch.uint8)
    return GazedChunk(frames, gaze, 255 - frames)
