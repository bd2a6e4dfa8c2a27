"""SigLIP, and SigLIP2 of fixed resolution, which has the same architecture."""

from jaxtyping import Float
from torch import Tensor

from autogaze.utils.normalization import SIGLIP
from autogaze.vision_encoders.adapter import EncoderAdapter, pool_by_frame
from autogaze.vision_encoders.layout import TokenLayout


class SiglipAdapter(EncoderAdapter):
    """No class token; an attention-pooling head sees a frame's patches."""

    statistics = SIGLIP
    asked_to_interpolate = True

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.post_layernorm(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        return pool_by_frame(self.model.head, tokens, layout) if self.model.use_head else None
