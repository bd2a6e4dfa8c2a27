"""Hints: what the vision token of a place could know of it.

Labels teach where patches usually pay long before they teach a selector to look: a fixed
habit comes within a quarter of greedy gazes, and what is left is a small signal at the end
of a long way through attention. So every vision token is asked, beside the labels, for what
greedy gazes depend on:

    log(e + FLOOR), where e is the mean |difference| of the token's cell of the frame from
    - what each coarser scale shows of the frame,
    - the frame before, and the one before that (mid grey where there is none).

What the decoder makes of a token is asked for one thing more, which depends on the gazes
at earlier frames: the error of what they have left on the canvas there. It is what a patch
could still gain.

The answers are read through fixed directions, so they need no weights of their own. Not
part of AutoGaze's paper.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY, reconstruct
from autogaze.reconstruction.views import scale_views

FLOOR = 0.004
"""About one step of 8-bit pixels: smaller errors are noise."""
CENTRE = -3.5
"""A usual log error."""
LAGS = (1, 2)
"""Frames back: as far as the stem sees."""


def hint_targets(
    frames: Float[Tensor, "B T 3 S S"], pyramid: PatchPyramid, grid: int
) -> Float[Tensor, "B T cells hints"]:
    """What is to be known of every cell of a `grid` x `grid` of vision tokens."""
    views = scale_views(frames, pyramid)
    hints = [_cells(views[:, :, level], frames, grid) for level in range(len(pyramid.scales) - 1)]
    hints += [_since(frames[:, :-lag], frames, grid) for lag in LAGS]
    return torch.stack(hints, -1)


def carried_targets(
    frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, grid: int
) -> Float[Tensor, "B T cells"]:
    """What is to be known of what earlier frames' gazes left for every cell."""
    return _since(reconstruct(frames, gaze).frames[:, :-1], frames, grid)


def _since(
    before: Float[Tensor, "B some 3 S S"], frames: Float[Tensor, "B T 3 S S"], grid: int
) -> Float[Tensor, "B T cells"]:
    """Errors of what the last frames are compared with; the first ones', with mid grey."""
    num_first = frames.shape[1] - before.shape[1]
    # Joined as cells, not as pictures: these are the largest tensors of a step.
    grey = frames.new_full((), GREY)
    first = _cells(grey, frames[:, :num_first], grid)
    return torch.cat([first, _cells(before, frames[:, num_first:], grid)], 1)


def _cells(
    shown: Float[Tensor, "*broadcast"], frames: Float[Tensor, "B T 3 S S"], grid: int
) -> Float[Tensor, "B T cells"]:
    error = (shown - frames).abs_().mean(2)
    return (F.adaptive_avg_pool2d(error, grid).flatten(2) + FLOOR).log() - CENTRE


def hint_loss(
    tokens: Float[Tensor, "R T cells C"],
    targets: Float[Tensor, "R T cells hints"],
    carried: Float[Tensor, "R T cells"] | None = None,
) -> Float[Tensor, " R"]:
    """Mean squared error of the hints that tokens carry, of every row.

    What is carried along counts as much as all other hints together.
    """
    read = tokens.float() @ directions(tokens.shape[-1], targets.shape[-1], tokens.device)
    loss = (read[..., :-1] - targets).square().mean((1, 2, 3))
    if carried is not None:
        loss = loss + (read[..., -1] - carried).square().mean((1, 2))
    return loss


@lru_cache(maxsize=8)
def directions(width: int, hints: int, device: torch.device) -> Float[Tensor, "C read"]:
    """Where hints are read from, and last what is carried along: unit vectors, any two at
    right angles.
    """
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(width, count, generator=generator) for count in (hints, 1)]
        return torch.linalg.qr(torch.cat(drawn, 1))[0].to(device)
