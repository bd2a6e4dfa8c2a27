"""ViT as transformers has it, with its optional pooler."""

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import TokenLayout


class ViTAdapter(EncoderAdapter):
    """ViT: a class token, pooled by a dense layer where the model has one."""

    num_prefix = 1
    positions_skipped = 1
    statistics = SIGLIP
    asked_to_interpolate = True

    @property
    def projection(self) -> Any:
        return self.model.embeddings.patch_embeddings.projection

    @property
    def layers(self) -> Iterable[nn.Module]:
        # On the model in transformers 5, on an encoder in 4.
        return self.model.layers if hasattr(self.model, "layers") else self.model.encoder.layer

    def prefix(self) -> Float[Tensor, "P C"]:
        embeddings = self.model.embeddings
        return embeddings.cls_token[0] + embeddings.position_embeddings[0, :1]

    def enter(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.embeddings.dropout(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        if self.model.pooler is None:
            return None
        return self.model.pooler(tokens[layout.prefix_index[:, :1]])
