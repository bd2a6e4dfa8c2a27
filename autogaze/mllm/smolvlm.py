"""SmolVLM and SmolVLM2: frames are images, a block of placeholders each.

A unit is a square of patches side by side (pixel shuffle). The frames and images of a row of a
dense input count as the frames of one video, since nothing there tells them apart.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualFeatures, VisualInput
from autogaze.mllm.frame_tower import ShuffledAdapter


class SmolVLMAdapter(ShuffledAdapter):
    """Adapter of `SmolVLMForConditionalGeneration`."""

    dense_inputs = ("pixel_values", "pixel_attention_mask")

    @property
    def tower(self) -> nn.Module:
        return self.model.model.vision_model

    @property
    def text_model(self) -> nn.Module:
        return self.model.model.text_model

    @property
    def merge(self) -> int:
        return self.config.scale_factor

    def encode(self, visual: VisualInput) -> VisualFeatures:
        units = self.encode_units(visual, None)
        return VisualFeatures(self.model.model.connector.modality_projection(units))

    def rows(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Frames (T, 3, S, S) of the rows of a dense input that have some."""
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return []
        if pixels.ndim != 5:
            raise MLLMError(
                f"pixel_values must be (rows, frames, 3, S, S), got {tuple(pixels.shape)}"
            )
        real = _real_frames(pixels)
        mask = inputs.get("pixel_attention_mask")
        if mask is not None and not bool(torch.as_tensor(mask)[real].all()):
            raise MLLMError(
                "pixel_attention_mask has frames that are padded in part; gazed frames are whole: "
                "let the processor resize them to squares"
            )
        return [frames[there] for frames, there in zip(pixels, real, strict=True) if there.any()]


def _real_frames(pixels: Tensor) -> Bool[Tensor, "B T"]:
    """Frames that are no padding, which is zero throughout, as the model finds them."""
    real = (pixels != 0).flatten(2).any(-1)
    if real.numel():
        real[0, 0] |= not real.any()
    return real
