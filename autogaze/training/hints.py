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
    errors = [(views[:, :, level] - frames).abs() for level in range(len(pyramid.scales) - 1)]
    grey = torch.full_like(frames[:, :1], GREY)
    for lag in LAGS:
        before = torch.cat([grey.expand(-1, lag, -1, -1, -1), frames], 1)[:, : frames.shape[1]]
        errors.append((before - frames).abs())
    return torch.stack([_cells(error, grid) for error in errors], -1)


def carried_targets(
    frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, grid: int
) -> Float[Tensor, "B T cells"]:
    """What is to be known of what earlier frames' gazes left for every cell."""
    after = reconstruct(frames, gaze).frames
    before = torch.cat([torch.full_like(frames[:, :1], GREY), after[:, :-1]], 1)
    return _cells((before - frames).abs(), grid)


def _cells(error: Float[Tensor, "B T 3 S S"], grid: int) -> Float[Tensor, "B T cells"]:
    pooled = F.adaptive_avg_pool2d(error.mean(2), grid).flatten(2)
    return (pooled + FLOOR).log() - CENTRE


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
