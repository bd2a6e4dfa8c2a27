"""Pyramids and clips that the tests of selectors and reconstruction share."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from autogaze.geometry import PatchPyramid

EXACT = (
    PatchPyramid((4, 8), 4),
    PatchPyramid((8, 16, 24), 4),  # 16 does not divide 24
    PatchPyramid((12, 20), 4),  # coarse cells are 6.67 pixels wide
    PatchPyramid((48, 80), 16),
    PatchPyramid((6,), 3),
)
CROPPED = PatchPyramid((6, 10), 4, crop=True)  # one cell and four, with margins left over

exact_pyramids = st.sampled_from(EXACT)
pyramids = st.sampled_from((*EXACT, CROPPED))
seeds = st.integers(0, 2**32 - 1)


def random_clips(pyramid: PatchPyramid, num_clips: int, num_frames: int, seed: int) -> Tensor:
    """(B, T, 3, S, S) floats in [0, 1]: smooth pictures in which squares of noise move."""
    generator = torch.Generator().manual_seed(seed)
    side = pyramid.side
    coarse = torch.rand(num_clips, 3, 3, 3, generator=generator)
    still = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    frames = still[:, None].repeat(1, num_frames, 1, 1, 1)
    size = max(2, side // 3)
    for clip in range(num_clips):
        for frame in range(num_frames):
            top, left = torch.randint(side - size + 1, (2,), generator=generator).tolist()
            noise = torch.rand(3, size, size, generator=generator)
            frames[clip, frame, :, top : top + size, left : left + size] = noise
    return frames


def still_clips(pyramid: PatchPyramid, num_clips: int, num_frames: int, seed: int = 0) -> Tensor:
    """Clips whose frames are all the same noise."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(num_clips, 1, 3, pyramid.side, pyramid.side, generator=generator)
    return picture.repeat(1, num_frames, 1, 1, 1)


def change_cells(frame: Tensor, pyramid: PatchPyramid, cells: list[int]) -> None:
    """Invert the pixels of some cells of the finest scale, in place."""
    edges = pyramid.pixel_edges(pyramid.side)
    for cell in cells:
        row, column = divmod(cell, pyramid.grids[-1])
        square = frame[..., edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        square.copy_(1 - square)
