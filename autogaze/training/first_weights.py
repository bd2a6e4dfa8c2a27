"""First weights that know where patches are.

A selector from nothing must find out that the vision token of a place and the patches
there belong together: 196 tokens, 265 patches, ten heads. Here all of them start from one
code of places, so that whatever looks at a place can name its patches at once.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.models.autogaze.modeling import AutoGaze

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
