"""SigLIP2 of native aspect ratio (NaFlex), whose patches come flattened."""

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
