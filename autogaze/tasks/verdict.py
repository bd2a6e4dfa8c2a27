"""What a gaze preserves, seen three ways, each compared with the frames themselves."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import replay
from autogaze.reconstruction.holes import fill_holes
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction


@dataclass(frozen=True)
class View:
    """One way to show T frames of B clips.

    Attributes:
        pictures: (B, T, 3, S, S) in [0, 1].
        l1: (B, T) mean |picture - frame|, in [0, 1], the canvas' own unit.
        losses: (B, T) by the judge's terms, in its unit.
    """

    pictures: Float[Tensor, "B T 3 S S"]
    l1: Float[Tensor, "B T"]
    losses: Float[Tensor, "B T"]


@dataclass(frozen=True)
class Verdict:
    """What can be made of the patches alone.

    Attributes:
        canvas: with mid grey where nobody ever looked.
        filled_canvas: these holes filled from around them.
        reconstruction: the judge's.
    """

    canvas: View
    filled_canvas: View
    reconstruction: View

    @property
    def errors(self) -> Float[Tensor, "3 2 B T"]:
        """`l1` and `losses` of the three."""
        views = (self.canvas, self.filled_canvas, self.reconstruction)
        return torch.stack([torch.stack([view.l1, view.losses]) for view in views])


@torch.no_grad()
def reach_verdict(
    task: VideoMAEReconstruction, frames: UInt8[Tensor, "B T 3 S S"], gaze: Gaze
) -> Verdict:
    """Judge all frames of some clips.

    Args:
        task: the judge.
        frames: one chunk: at most as many frames as the judge knows.
        gaze: of these frames.

    Raises:
        GeometryError: more frames than the judge knows.
        TrainingError: a gaze of another pyramid, or at other frames.
    """
    real = frames.to(next(task.parameters()).device).float() / 255
    output = task(real, gaze, range(gaze.num_frames))
    canvas, filled = torch.empty_like(real), torch.empty_like(real)
    for number, (now, _) in enumerate(replay(real, gaze)):
        canvas[:, number] = now.frames
        filled[:, number] = fill_holes(now.frames, now.painted)
    return Verdict(
        View(canvas, _l1(canvas, real), task.losses(canvas, real)[0]),
        View(filled, _l1(filled, real), task.losses(filled, real)[0]),
        View(output.reconstruction, _l1(output.reconstruction, real), output.losses),
    )


def _l1(pictures: Tensor, real: Tensor) -> Tensor:
    return (pictures - real).abs().mean((2, 3, 4))
