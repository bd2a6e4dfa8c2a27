"""InternVL (the models named `-hf`): frames of one side, 2 x 2 patches per unit.

Frames and tiles of images reach the model in one list. Those of a row of a dense input count as
the frames of one video, since nothing there tells them apart.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualFeatures, VisualInput
from autogaze.mllm.frame_tower import ShuffledAdapter


class InternVLAdapter(ShuffledAdapter):
    """Adapter of `InternVLForConditionalGeneration`."""

    dense_inputs = ("pixel_values",)

    @property
    def merge(self) -> int:
        return round(1 / self.config.downsample_ratio)

    def encode(self, visual: VisualInput) -> VisualFeatures:
        layer = self.config.vision_feature_layer
        # -1 is behind the tower's last norm, as in the model.
        units = self.encode_units(visual, None if layer == -1 else [layer])
        return VisualFeatures(self.model.model.multi_modal_projector(units))

    def rows(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Frames (T, 3, S, S) of the rows of a dense input that have some."""
        frames, ids = inputs.get("pixel_values"), inputs.get("input_ids")
        if frames is None:
            return []
        if ids is None:
            raise MLLMError("the frames of InternVL belong to rows by input_ids, which is missing")
        side = self.check_frames("pixel_values", frames) // self.merge
        token = self.config.image_token_id
        found = torch.as_tensor(ids) == token
        mask = inputs.get("attention_mask")
        if mask is not None:
            found = found & torch.as_tensor(mask).bool()
        counts = found.sum(1).tolist()
        if sum(counts) != len(frames) * side**2 or any(count % side**2 for count in counts):
            raise MLLMError(
                f"the prompt has {counts} placeholders (token {token}) in its rows, of {side**2} "
                f"per frame, and pixel_values has {len(frames)} frames"
            )
        rows = frames.split([count // side**2 for count in counts])
        return [row for row in rows if len(row)]
