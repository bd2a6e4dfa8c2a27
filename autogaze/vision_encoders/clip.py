"""CLIP's image encoder."""

from jaxtyping import Float
from torch import Tensor, nn

from autogaze.utils.normalization import CLIP
from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary
from autogaze.vision_encoders.layout import TokenLayout


class ClipAdapter(EncoderAdapter):
    """CLIP: a class token, a norm before the blocks, and one for the pooled token only."""

    num_prefix = 1
    positions_skipped = 1
    statistics = CLIP
    asked_to_interpolate = True

    def prefix(self) -> Float[Tensor, "P C"]:
        embeddings = self.model.embeddings
        return embeddings.class_embedding[None] + embeddings.position_embedding.weight[:1]

    def enter(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.pre_layrnorm(tokens)

    def run(
        self, layer: nn.Module, tokens: Tensor, layout: TokenLayout, rotary: Rotary | None
    ) -> Float[Tensor, "one N C"]:
        # transformers 4 requires the second mask; 5 passes it to attention, which ignores it.
        out = layer(tokens, layout, causal_attention_mask=None)
        return out[0] if isinstance(out, tuple) else out

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return tokens

    def pool(self, tokens: Float[Tensor, "N C"], layout: TokenLayout) -> Float[Tensor, "frames C"]:
        return self.model.post_layernorm(tokens[layout.prefix_index[:, 0]])
