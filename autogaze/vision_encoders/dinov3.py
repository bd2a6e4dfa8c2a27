"""DINOv3: rotary positions, a class token and registers."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary
from autogaze.vision_encoders.layout import TokenLayout


class Dinov3Adapter(EncoderAdapter):
    """DINOv3: rotary positions of patches, none of class and register tokens."""

    reads_constants = True  # the coordinates of cells, which transformers keeps

    @property
    def num_prefix(self) -> int:  # type: ignore[override]
        return 1 + self.config.num_register_tokens

    @property
    def projection(self) -> Any:
        return self.model.embeddings.patch_embeddings

    @property
    def layers(self) -> Iterable[nn.Module]:
        # transformers 5 has them on an inner encoder, 4 on the model.
        return self.model.layer if hasattr(self.model, "layer") else self.model.model.layer

    def positions(self, grid: int) -> None:
        return None

    def rotary(self, grid: int) -> Rotary:
        side = grid * self.patch_size
        # Only the shape of the pixels counts.
        pixels = self.projection.weight.new_empty(1).expand(1, 3, side, side)
        return self.model.rope_embeddings(pixels)

    def prefix(self) -> Float[Tensor, "P C"]:
        embeddings = self.model.embeddings
        return torch.cat([embeddings.cls_token[0], embeddings.register_tokens[0]])

    def run(
        self, layer: nn.Module, tokens: Tensor, layout: TokenLayout, rotary: Rotary | None
    ) -> Float[Tensor, "one N C"]:
        return layer(tokens, layout, position_embeddings=rotary)

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.norm(tokens)
