"""Additions to the paper used for the shipped weights: initialisation, on-policy targets, auxiliary loss.

A selector learns a content-blind prior from labels long before it learns to look at the clip:
such a prior comes within a quarter of greedy gazes, and what is left is a small signal at the
end of a long path through attention. Three remedies:

- `share_positions`: initial weights in which tokens, patches and heads share a position code.
- `on_policy_labels`: targets at the model's own gazes (DAgger: Ross, Gordon and Bagnell, 2011).
- `auxiliary_loss`: every vision token is regressed to what greedy gazes depend on,

      log(e + FLOOR) - CENTRE, with e the mean |difference| of the token's cell of the frame from
      - the frame resampled at each coarser scale,
      - the frame before, and the one before that (mid grey where there is none),

  and the decoder's output for a token also to the error that the gazes at earlier frames have
  left on the canvas there. Predictions are read along fixed directions, without weights.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.clip import GazeLabels
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.reconstruction.canvas import GREY, reconstruct
from autogaze.reconstruction.resample import resampled_scales
from autogaze.training.config import AlgorithmOptions
from autogaze.training.loader import StepContext
from autogaze.training.rollouts import RolloutBatch

# Initialisation: one position code in position embeddings, patch embeddings and heads.

BUMPS = 7
"""Gaussian bumps per axis: the rough position."""
WAVES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
"""Sine waves per frame, along each axis: the exact position."""


@torch.no_grad()
def share_positions(model: AutoGaze, seed: int = 0) -> None:
    """Initialise position embeddings, patch embeddings and heads of a model with one code.

    Attention starts half way to copying what it looks at (value and output projections half
    identity), so that the code of an attended position arrives where heads read it.

    Args:
        model: its weights are replaced in place.
        seed: of the directions that the code is written in.
    """
    generator = torch.Generator().manual_seed(seed)
    pyramid, parts = model.pyramid, model.gazing_model
    decoder, V = parts.gaze_decoder, model.pyramid.num_patches
    width = decoder.config.hidden_size
    writer = _code_directions(width, generator)  # (features, width)
    scales = 0.1 * torch.randn(len(pyramid.scales), width, generator=generator)
    tokens = position_code(math.isqrt(parts.connector.pos_embed.shape[-2])) @ writer
    patches = torch.cat([position_code(grid) for grid in pyramid.grids]) @ writer  # (V, width)
    of_scale = scales[pyramid.levels]
    parts.connector.pos_embed.copy_((0.5 * tokens).view_as(parts.connector.pos_embed))
    decoder.model.embed_tokens.weight[:V] = 0.5 * patches + of_scale
    heads = decoder.lm_head.weight.view(-1, V + 1, width)
    heads[:, :V] = 0.15 * patches + 0.3 * of_scale
    for name, product in decoder.model.named_parameters():
        if name.endswith(("v_proj.weight", "o_proj.weight")):
            product.mul_(0.5).add_(0.5 * torch.eye(*product.shape))


def position_code(grid: int) -> Float[Tensor, "cells features"]:
    """Features of the positions of a square grid's cells, row-major."""
    centres = (torch.arange(grid) + 0.5) / grid
    y, x = centres.repeat_interleave(grid), centres.repeat(grid)
    knots = torch.linspace(0, 1, BUMPS)
    squared = (y[:, None, None] - knots[:, None]) ** 2 + (x[:, None, None] - knots) ** 2
    bumps = 2 * torch.exp(-squared / (2 * 0.09**2)).flatten(1)
    turns = 2 * math.pi * torch.tensor(WAVES)
    waves = [wave(axis[:, None] * turns) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.cat([bumps, 0.35 * torch.cat(waves, 1)], 1)


def _code_directions(width: int, generator: torch.Generator) -> Float[Tensor, "features width"]:
    """A direction for every feature of the code, orthogonal where there is room."""
    features = position_code(1).shape[1]
    side = max(width, features)
    directions = torch.linalg.qr(torch.randn(side, side, generator=generator))[0]
    return directions[:features, :width]


# On-policy targets: what the search would have chosen at each of the model's own gazes.


def on_policy_labels(
    model: AutoGaze,
    frames: UInt8[Tensor, "B T 3 S S"],
    labels: Sequence[GazeLabels],
    indices: Sequence[int],
    context: StepContext,
    options: AlgorithmOptions,
) -> tuple[GazeLabels, ...]:
    """Labels in which a share of the clips has the model's likeliest gazes in place of the given.

    They have the lengths of the given ones. Targets are soft: what every patch would gain on the
    canvas at that point; losses are those that these gazes leave.

    Args:
        indices: of the clips in the whole batch.
    """
    # Seeded with these words: others would change the draws of old trainings.
    drawn = [float(torch.rand(1, generator=context.generator("own gazes", i))) for i in indices]
    chosen = [clip for clip, number in enumerate(drawn) if number < options.on_policy]
    if not chosen:
        return tuple(labels)
    caps = torch.tensor([[max(1, len(ids)) for ids in labels[clip].ids] for clip in chosen])
    video = normalise(frames[chosen].float() / 255)
    gaze = model.generate(video, caps=caps).to_gaze().to("cpu")
    searcher = CanvasSearcher(model.pyramid, options.on_policy_softness)
    replaced = list(labels)
    ids = [[part.tolist() for part in each.ids.split(each.lengths[0].tolist())] for each in gaze]
    followed = searcher.follow_clips(frames[chosen], ids)
    for clip, labels_of_clip in zip(chosen, followed, strict=True):
        replaced[clip] = labels_of_clip
    return tuple(replaced)


# The auxiliary loss.

FLOOR = 0.004
"""About one step of 8-bit pixels: smaller errors are noise."""
CENTRE = -3.5
"""A usual log error."""
LAGS = (1, 2)
"""Frames back: as far as the vision stem sees."""


def auxiliary_loss(
    batch: RolloutBatch,
    tokens: Float[Tensor, "R T cells C"],
    decoded: Float[Tensor, "R T cells C"],
) -> Float[Tensor, " R"]:
    """Squared error of what vision tokens predict of their cells, per row.

    Args:
        tokens: of the vision stem.
        decoded: the decoder's outputs for them.
    """
    grid, R = math.isqrt(tokens.shape[2]), batch.num_rows
    targets = cell_targets(batch.rgb, batch.rows.pyramid, grid)  # (B, T, cells, targets)
    B = len(targets)
    targets = targets.repeat(R // B, 1, 1, 1)
    # Repetition by repetition, so that frames need not be repeated.
    gazes = [batch.rows.to_gaze(slice(first, first + B)) for first in range(0, R, B)]
    canvas = torch.cat([canvas_targets(batch.rgb, gaze, grid) for gaze in gazes])  # (R, T, cells)
    return regression_loss(tokens, targets) + regression_loss(decoded, targets, canvas)


def cell_targets(
    frames: Float[Tensor, "B T 3 S S"], pyramid: PatchPyramid, grid: int
) -> Float[Tensor, "B T cells targets"]:
    """Log errors of the coarser scales and of earlier frames, per cell of a `grid` x `grid`."""
    scales = resampled_scales(frames, pyramid)[:, :, :-1].unbind(2)  # the finest has no error
    targets = [_cell_errors(coarse, frames, grid) for coarse in scales]
    targets += [_errors_since(frames[:, :-lag], frames, grid) for lag in LAGS]
    return torch.stack(targets, -1)


def canvas_targets(
    frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, grid: int
) -> Float[Tensor, "B T cells"]:
    """Log errors of the canvas that the gazes at earlier frames have left, per cell."""
    return _errors_since(reconstruct(frames, gaze).frames[:, :-1], frames, grid)


def _errors_since(
    before: Float[Tensor, "B some 3 S S"], frames: Float[Tensor, "B T 3 S S"], grid: int
) -> Float[Tensor, "B T cells"]:
    """Errors of `before` against the last frames; those of the first frames against mid grey."""
    num_first = frames.shape[1] - before.shape[1]
    # Joined as cells, not as pictures: these are the largest tensors of a step.
    grey = frames.new_full((), GREY)
    first = _cell_errors(grey, frames[:, :num_first], grid)
    return torch.cat([first, _cell_errors(before, frames[:, num_first:], grid)], 1)


def _cell_errors(
    guess: Float[Tensor, "*broadcast"], frames: Float[Tensor, "B T 3 S S"], grid: int
) -> Float[Tensor, "B T cells"]:
    error = (guess - frames).abs_().mean(2)
    return (F.adaptive_avg_pool2d(error, grid).flatten(2) + FLOOR).log() - CENTRE


def regression_loss(
    tokens: Float[Tensor, "R T cells C"],
    targets: Float[Tensor, "R T cells targets"],
    canvas: Float[Tensor, "R T cells"] | None = None,
) -> Float[Tensor, " R"]:
    """Mean squared error of the targets read from tokens, per row.

    The canvas target counts as much as all others together.
    """
    read = tokens.float() @ directions(tokens.shape[-1], targets.shape[-1], tokens.device)
    loss = (read[..., :-1] - targets).square().mean((1, 2, 3))
    if canvas is not None:
        loss = loss + (read[..., -1] - canvas).square().mean((1, 2))
    return loss


@lru_cache(maxsize=8)
def directions(width: int, targets: int, device: torch.device) -> Float[Tensor, "C read"]:
    """Orthonormal directions that targets are read along; the canvas target's is the last."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(width, count, generator=generator) for count in (targets, 1)]
        return torch.linalg.qr(torch.cat(drawn, 1))[0].to(device)
