"""SmolVLM's vision encoder: SigLIP with positions by buckets of the frame's side."""

from collections.abc import Hashable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from autogaze.utils.device import sent
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter


class SmolVLMVisionAdapter(SiglipAdapter):
    """The vision encoder of SmolVLM: no class token, no pooling, frames of any side."""

    asked_to_interpolate = False
    reads_constants = True  # which row of the table each patch gets

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._rows: dict[Hashable, Tensor] = {}

    def positions(self, grid: int) -> Float[Tensor, "cells C"]:
        table = self.model.embeddings.position_embedding.weight
        key = (grid, self.projection.weight.dtype, table.device)
        if key not in self._rows:
            with torch.inference_mode(False):
                self._rows[key] = sent(self._rows_of(grid), table.device)
        return table[self._rows[key]]

    def _rows_of(self, grid: int) -> Int[Tensor, " cells"]:
        """The rows of the table that the patches of a square frame get.

        Versions of transformers fill the buckets differently, so the model is asked: of blank frames,
        and a table that holds its rows' numbers. It is asked on the CPU, since transformers 4 reads
        sizes from the device of its frames, which no CUDA graph can record.
        """
        side, weight = grid * self.patch_size, self.projection.weight
        blank = torch.zeros(1, 3, side, side, dtype=weight.dtype)
        count = len(self.model.embeddings.position_embedding.weight)
        numbered = {
            "patch_embedding.weight": torch.zeros(1, *weight.shape[1:], dtype=weight.dtype),
            "patch_embedding.bias": torch.zeros(1, dtype=weight.dtype),
            "position_embedding.weight": torch.arange(count)[:, None].float(),
        }
        whole = {"patch_attention_mask": torch.ones(1, grid, grid, dtype=torch.bool)}
        with torch.no_grad():
            rows = functional_call(self.model.embeddings, numbered, (blank,), whole, strict=False)
        return rows[0, :, 0].long()

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return None
