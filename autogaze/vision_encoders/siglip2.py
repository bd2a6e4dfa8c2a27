"""SigLIP2 of native aspect ratio (NaFlex), whose patches come flattened."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.vision_encoders.siglip.adapter import SiglipAdapter


class Siglip2Adapter(SiglipAdapter):
    """A linear projection of (p, p, 3) pixels; its position table is resized with antialiasing."""

    @property
    def image_size(self) -> int:
        """The square that uses all of the positions it was trained with."""
        return round(self.config.num_patches**0.5) * self.patch_size

    def project(self, patches: Float[Tensor, "N 3 p p"]) -> Float[Tensor, "N C"]:
        return self.projection(patches.permute(0, 2, 3, 1).flatten(1))

    def positions(self, grid: int) -> Float[Tensor, "cells C"]:
        embeddings = self.model.embeddings
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.unflatten(0, (side, side))
        shape = torch.tensor([[grid, grid]])
        return embeddings.resize_positional_embeddings(table, shape, max_length=grid * grid)[0]

    def dense(self, frames: Float[Tensor, "F 3 S S"]) -> Any:
        # Patches instead of images, colours last; the mask says that none is padding.
        p, F = self.patch_size, len(frames)
        grid = frames.shape[-1] // p
        covered = frames[..., : grid * p, : grid * p]
        cells = covered.unflatten(-1, (grid, p)).unflatten(-3, (grid, p))  # (F, 3, g, p, g, p)
        flat = cells.permute(0, 2, 4, 3, 5, 1).reshape(F, grid * grid, -1)
        real = torch.ones(F, grid * grid, dtype=torch.long, device=frames.device)
        return self.model(flat, real, torch.tensor([[grid, grid]] * F, device=frames.device))
