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

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GazeBudget, label_frames
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.reconstruction.canvas import GREY, reconstruct
from autogaze.reconstruction.resample import resampled_scales
from autogaze.utils.seeding import seeded

# Labels made while training: greedy search with the canvas, clip by clip.


@dataclass(frozen=True)
class GreedyOptions(GazeBudget):
    """How many patches clips get, and how they are taught.

    Args:
        softness: see `CanvasSearcher`; 0 teaches the one best patch.

    Raises:
        TrainingError: see `GazeBudget`; a negative softness.
    """

    softness: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.softness >= 0:
            raise TrainingError(f"softness must be at least 0, got {self.softness}")


class GreedyLabelled(Dataset):
    """Another dataset's clips with greedy labels; how many patches they hold is drawn anew
    for every clip and epoch.
    """

    def __init__(
        self, inner: Dataset, pyramid: PatchPyramid, options: GreedyOptions, *, seed: int = 0
    ) -> None:
        self.inner, self.budget, self.seed = inner, options, seed
        self.searcher = CanvasSearcher(pyramid, options.softness)

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        key = ClipKey.of(key)
        clip = self.inner[key]
        if isinstance(clip, UnreadableClip):
            return clip
        generator = seeded("greedy labels", self.seed, *key)
        return replace(
            clip, labels=label_frames(clip.frames, self.searcher, self.budget, generator)
        )


# First weights that know where patches are.

BUMPS = 7
"""Bumps a side, that say roughly where."""
WAVES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
"""Waves a frame, along each axis, that say where exactly."""


@torch.no_grad()
def share_positions(model: AutoGaze, seed: int = 0) -> None:
    """Let position embeddings, patch embeddings and heads of a fresh model share a code.

    Attention starts half way to handing on what it looks at (values and outputs half
    identity), so the code of a place that is looked at arrives where heads read it.

    Args:
        model: its weights are replaced in place.
        seed: of the directions that the code is written in.
    """
    generator = torch.Generator().manual_seed(seed)
    pyramid, parts = model.pyramid, model.gazing_model
    decoder, V = parts.gaze_decoder, model.pyramid.num_patches
    width = decoder.config.hidden_size
    writer = _directions(width, generator)
    scales = 0.1 * torch.randn(len(pyramid.scales), width, generator=generator)
    tokens = place_code(math.isqrt(parts.connector.pos_embed.shape[-2])) @ writer
    patches = torch.cat([place_code(grid) for grid in pyramid.grids]) @ writer
    of_scale = scales[pyramid.levels]
    parts.connector.pos_embed.copy_((0.5 * tokens).view_as(parts.connector.pos_embed))
    decoder.model.embed_tokens.weight[:V] = 0.5 * patches + of_scale
    heads = decoder.lm_head.weight.view(-1, V + 1, width)
    heads[:, :V] = 0.15 * patches + 0.3 * of_scale
    for name, product in decoder.model.named_parameters():
        if name.endswith(("v_proj.weight", "o_proj.weight")):
            product.mul_(0.5).add_(0.5 * torch.eye(*product.shape))


def place_code(grid: int) -> Float[Tensor, "cells features"]:
    """Where the cells of a square grid are, row-major."""
    centres = (torch.arange(grid) + 0.5) / grid
    y, x = centres.repeat_interleave(grid), centres.repeat(grid)
    knots = torch.linspace(0, 1, BUMPS)
    squared = (y[:, None, None] - knots[:, None]) ** 2 + (x[:, None, None] - knots) ** 2
    bumps = 2 * torch.exp(-squared / (2 * 0.09**2)).flatten(1)
    turns = 2 * math.pi * torch.tensor(WAVES)
    waves = [wave(axis[:, None] * turns) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.cat([bumps, 0.35 * torch.cat(waves, 1)], 1)


def _directions(width: int, generator: torch.Generator) -> Float[Tensor, "features width"]:
    """A direction for every feature of the code, at right angles where there is room."""
    features = place_code(1).shape[1]
    side = max(width, features)
    directions = torch.linalg.qr(torch.randn(side, side, generator=generator))[0]
    return directions[:features, :width]


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
    views = resampled_scales(frames, pyramid)
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
