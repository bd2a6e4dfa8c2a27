"""Pictures of a task's output: frames, their gazes and reconstructions in a table."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import squares_of
from autogaze.reconstruction.resample import resampled_scales
from autogaze.rendering.painter import GROUND, scale_colours
from autogaze.tasks.base import TaskOutput

GAP = 4
"""Pixels between pictures."""
DIM = 0.2
"""Factor on the brightness of what was not gazed at."""


@torch.no_grad()
def task_picture(
    frames: Float[Tensor, "B T 3 S S"],
    gaze: Gaze,
    output: TaskOutput,
    *,
    max_clips: int = 2,
    max_frames: int = 8,
) -> UInt8[Tensor, "3 H W"]:
    """A table with one column per scored frame: the frame, its gaze and its reconstruction.

    A gazed patch is drawn as its scale resamples it, outlined in its scale's colour (from
    blue, coarse, to pink, fine), on a dim grey copy of the frame. Tasks that reconstruct no
    pictures have no third row.

    Args:
        frames: RGB in [0, 1].
        gaze: of these frames.
        output: of the task, for this gaze.
        max_clips: largest number of clips, one below the other.
        max_frames: largest number of columns, spread evenly over the scored frames.
    """
    columns = torch.linspace(0, len(output.frames) - 1, min(max_frames, len(output.frames)))
    places = columns.round().long().unique().tolist()
    rows = []
    for clip in range(min(max_clips, frames.shape[0])):
        numbers = [output.frames[place] for place in places]
        real = frames[clip, numbers].cpu().float()
        rows.append(real)
        gazed = [
            gazed_frame(frame, gaze.frame(clip, number), gaze)
            for frame, number in zip(real, numbers, strict=True)
        ]
        rows.append(torch.stack(gazed))
        if output.reconstruction is not None:
            rows.append(output.reconstruction[clip, places].cpu().float())
    return _table(rows)


def gazed_frame(frame: Float[Tensor, "3 S S"], ids: Tensor, gaze: Gaze) -> Float[Tensor, "3 S S"]:
    """A frame's gazed patches on a dim grey copy of it."""
    pyramid = gaze.pyramid
    scales = resampled_scales(frame, pyramid)
    colours = torch.from_numpy(scale_colours(len(pyramid.scales))).float() / 255
    picture = (DIM * frame.mean(0)).expand(3, -1, -1).clone()
    squares = [squares_of(pyramid)[patch] for patch in ids.sort().values.tolist()]
    for level, rows, across in squares:  # finest on top
        picture[:, rows, across] = scales[level, :, rows, across]
    for level, rows, across in squares:
        colour = colours[level][:, None]
        for edge in (rows.start, rows.stop - 1):
            picture[:, edge, across] = colour
        for edge in (across.start, across.stop - 1):
            picture[:, rows, edge] = colour
    return picture


def _table(rows: list[Float[Tensor, "n 3 S S"]]) -> UInt8[Tensor, "3 H W"]:
    """Rows of pictures with gaps between and around them."""
    side = rows[0].shape[-1]
    step = side + GAP
    height, width = len(rows) * step + GAP, len(rows[0]) * step + GAP
    table = (torch.tensor(GROUND) / 255)[:, None, None].expand(3, height, width).clone()
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            top, left = down * step + GAP, across * step + GAP
            table[:, top : top + side, left : left + side] = picture
    return (table * 255).round().clamp(0, 255).to(torch.uint8)
