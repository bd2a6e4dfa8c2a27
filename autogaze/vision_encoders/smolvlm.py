"""SmolVLM's vision encoder: SigLIP with positions by buckets of the frame's side."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter


class SmolVLMVisionAdapter(SiglipAdapter):
    """The vision encoder of SmolVLM: no class token, no pooling, frames of any side."""

    asked_to_interpolate = False

    def positions(self, grid: int) -> Float[Tensor, "cells C"]:
        # Versions of transformers fill the buckets differently, so the model is asked which row of
        # its table each patch gets: of blank frames, and a table that holds its rows' numbers.
        embeddings, side = self.model.embeddings, grid * self.patch_size
        table = embeddings.position_embedding.weight
        blank = self.projection.weight.new_zeros(1, 3, side, side)
        numbered = {
            "patch_embedding.weight": torch.zeros_like(self.projection.weight[:1]),
            "patch_embedding.bias": torch.zeros_like(self.projection.weight[:1, 0, 0, 0]),
            "position_embedding.weight": torch.arange(len(table), device=table.device)[
                :, None
            ].float(),
        }
        whole = torch.ones(1, grid, grid, dtype=torch.bool, device=blank.device)
        rows = functional_call(
            embeddings, numbered, (blank,), {"patch_attention_mask": whole}, strict=False
        )
        return table[rows[0, :, 0].long()]

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return None
