"""Hints: what the vision token of a place could know of it.

Labels teach where patches usually pay long before they teach a selector to look: a fixed
habit comes within a quarter of greedy gazes, and what is left is a small signal at the end
of a long way through attention. So every vision token is asked, beside the labels, for what
greedy gazes depend on:

    log(e + FLOOR), where e is the mean |difference| of the token's cell of the frame from
    - what each coarser scale shows of the frame,
    - the frame before, and the one before that (mid grey where there is none).

The answers are read through fixed directions, so they need no weights of their own. Not
part of AutoGaze's paper.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY
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
    cells = [F.adaptive_avg_pool2d(error.mean(2), grid).flatten(2) for error in errors]
    return (torch.stack(cells, -1) + FLOOR).log() - CENTRE


def hint_loss(
    tokens: Float[Tensor, "R T cells C"], targets: Float[Tensor, "R T cells hints"]
) -> Float[Tensor, " R"]:
    """Mean squared error of the hints that tokens carry, of every row."""
    read = tokens.float() @ directions(tokens.shape[-1], targets.shape[-1], tokens.device)
    return (read - targets).square().mean((1, 2, 3))


@lru_cache(maxsize=8)
def directions(width: int, hints: int, device: torch.device) -> Float[Tensor, "C hints"]:
    """Where hints are read from: unit vectors, any two at right angles."""
    with torch.inference_mode(False):
        drawn = torch.randn(width, hints, generator=torch.Generator().manual_seed(1))
        return torch.linalg.qr(drawn)[0].to(device)
