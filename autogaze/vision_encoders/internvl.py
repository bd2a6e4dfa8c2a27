"""InternVL's vision encoder (InternViT): a class token, layer scale."""

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import TokenLayout


class InternVLVisionAdapter(EncoderAdapter):
    """The vision encoder of InternVL: a class token, mean pooling or none."""

    num_prefix = 1
    positions_skipped = 1

    @property
    def projection(self) -> Any:
        return self.model.embeddings.patch_embeddings.projection

    @property
    def layers(self) -> Iterable[nn.Module]:
        return self.model.encoder.layer

    def positions(self, grid: int) -> Float[Tensor, "cells C"] | None:
        if self.model.embeddings.position_embeddings is None:
            return None
        return super().positions(grid)

    def prefix(self) -> Float[Tensor, "P C"]:
        embeddings = self.model.embeddings
        token, table = embeddings.cls_token[0], embeddings.position_embeddings
        return token if table is None else token + table[0, :1]

    def enter(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.embeddings.dropout(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return None
