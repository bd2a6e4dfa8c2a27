"""Pictures of a task's output: frames, their gazes and reconstructions in a table.

The contact sheet of a video (`autogaze.rendering.sheet`) shows whole frames and their canvas; this
shows clips as the selector sees them, and what the task made of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import repaint
from autogaze.rendering.painter import GROUND, draw_overlay, patch_maps, scale_colours
from autogaze.source import TileGrid
from autogaze.tasks.base import TaskOutput

GAP = 4
"""Pixels between pictures."""


@torch.no_grad()
def task_picture(
    frames: Float[Tensor, "B T 3 S S"],
    gaze: Gaze,
    output: TaskOutput,
    *,
    max_clips: int = 2,
    max_frames: int = 8,
) -> UInt8[np.ndarray, "H W 3"]:
    """A table with one column per scored frame: the frame, its gaze and its reconstruction.

    A gazed patch is drawn as its scale resamples it, outlined in its scale's colour (from
    blue, coarse, to pink, fine), on a dim grey copy of the frame. Tasks that reconstruct no
    pictures have no third row.

    Args:
        frames: RGB in [0, 1].
        max_clips: largest number of clips, one below the other.
        max_frames: largest number of columns, spread evenly over the scored frames.
    """
    columns = torch.linspace(0, len(output.frames) - 1, min(max_frames, len(output.frames)))
    places = columns.round().long().unique().tolist()
    numbers = [output.frames[place] for place in places]
    rows = []
    for clip in range(min(max_clips, len(frames))):
        real = _pixels(frames[clip, numbers])
        mask = gaze.mask[clip, numbers].cpu()
        rows += [_channels_last(real), list(gazed_frames(real, mask, gaze.pyramid))]
        if output.reconstruction is not None:
            rows.append(_channels_last(_pixels(output.reconstruction[clip, places])))
    return _table(rows)


def gazed_frames(
    frames: UInt8[Tensor, "n 3 S S"], mask: Bool[Tensor, "n V"], pyramid: PatchPyramid
) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """Every frame's gazed patches on a dim grey copy of it."""
    side = pyramid.side
    maps = patch_maps(pyramid, TileGrid(side, side, 1, 1, side, side, side), side, side)
    colours = scale_colours(len(pyramid.scales))
    for picture, chosen in zip(_channels_last(repaint(frames, pyramid, mask)), mask, strict=True):
        patches = [cells.numpy() for cells in chosen.split(pyramid.cells)]
        yield draw_overlay(picture, patches, maps, colours)


def _pixels(frames: Float[Tensor, "n 3 S S"]) -> UInt8[Tensor, "n 3 S S"]:
    """8-bit frames of frames in [0, 1]."""
    return (frames.cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)


def _channels_last(frames: UInt8[Tensor, "n 3 S S"]) -> list[UInt8[np.ndarray, "S S 3"]]:
    return list(frames.permute(0, 2, 3, 1).numpy())


def _table(rows: Sequence[Sequence[UInt8[np.ndarray, "S S 3"]]]) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of pictures with gaps between and around them."""
    side = len(rows[0][0])
    step = side + GAP
    table = np.empty((len(rows) * step + GAP, len(rows[0]) * step + GAP, 3), np.uint8)
    table[:] = GROUND
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            top, left = down * step + GAP, across * step + GAP
            table[top : top + side, left : left + side] = picture
    return table
