"""SigLIP and SigLIP2, of fixed resolution and of native aspect ratio (NaFlex)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.siglip.pooling import pool_frames


class SiglipAdapter(EncoderAdapter):
    """SigLIP and fixed-resolution SigLIP2: no class token, an attention-pooling head.

    Positions of every scale are interpolated from the model's own table (`EncoderAdapter.positions`).
    """

    statistics = SIGLIP
    asked_to_interpolate = True

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.post_layernorm(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return pool_frames(self.model.head, tokens, layout) if self.model.use_head else None


class Siglip2Adapter(SiglipAdapter):
    """SigLIP2 NaFlex: patches come flattened, positions are resized with antialiasing."""

    @property
    def image_size(self) -> int:
        """Side of the square with as many patches as its position table."""
        return round(self.config.num_patches**0.5) * self.patch_size

    def project(self, patches: Float[Tensor, "N 3 p p"]) -> Float[Tensor, "N C"]:
        return self.projection(patches.permute(0, 2, 3, 1).flatten(1))

    def positions(self, grid: int) -> Float[Tensor, "cells C"]:
        # NaFlex has no `interpolate_pos_encoding`; its table is resized for every image.
        embeddings = self.model.embeddings
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.unflatten(0, (side, side))
        shape = torch.tensor([[grid, grid]])
        return embeddings.resize_positional_embeddings(table, shape, max_length=grid * grid)[0]

    def dense(self, frames: Float[Tensor, "F 3 S S"]) -> Any:
        # Patches instead of images, colours last; no patch is padding.
        p, F = self.patch_size, len(frames)
        grid = frames.shape[-1] // p
        covered = frames[..., : grid * p, : grid * p]
        cells = covered.unflatten(-1, (grid, p)).unflatten(-3, (grid, p))  # (F, 3, g, p, g, p)
        flat = cells.permute(0, 2, 4, 3, 5, 1).reshape(F, grid * grid, -1)
        real = torch.ones(F, grid * grid, dtype=torch.long, device=frames.device)
        return self.model(flat, real, torch.tensor([[grid, grid]] * F, device=frames.device))
