"""DINOv2, with and without registers."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import EncoderAdapter


class Dinov2Adapter(EncoderAdapter):
    """DINOv2: a class token, and registers without positions."""

    positions_skipped = 1

    @property
    def num_prefix(self) -> int:  # type: ignore[override]
        return 1 + getattr(self.config, "num_register_tokens", 0)

    @property
    def usual_pyramid(self) -> PatchPyramid:
        # Published weights have positions for 518 pixels and are mostly used with 224.
        if self.image_size == 518:
            return PatchPyramid((32, 64, 112, 224), self.patch_size, crop=True)
        return super().usual_pyramid

    @property
    def projection(self) -> Any:
        return self.model.embeddings.patch_embeddings.projection

    @property
    def layers(self) -> Iterable[nn.Module]:
        encoder = self.model.encoder
        return encoder.layers if hasattr(encoder, "layers") else encoder.layer

    def prefix(self) -> Float[Tensor, "P C"]:
        embeddings = self.model.embeddings
        class_token = embeddings.cls_token[0] + embeddings.position_embeddings[0, :1]
        if self.num_prefix == 1:
            return class_token
        return torch.cat([class_token, embeddings.register_tokens[0]])

    def enter(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        return self.model.embeddings.dropout(tokens)
