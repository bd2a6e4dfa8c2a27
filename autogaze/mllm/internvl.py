"""InternVL (the models named `-hf`): numbered frames of one side, 2 x 2 patches per unit.

Frames, and images as up to 12 tiles and a thumbnail, reach the model in one list. Those of a row of a
dense input count as the frames of one video, since nothing there tells them apart.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualFeatures, VisualInput
from autogaze.mllm.frame_processor import ShuffledProcessorAdapter
from autogaze.mllm.frame_tower import ShuffledAdapter
from autogaze.mllm.processor_adapter import Expansion, FrameTimes, WholeImage, setting
from autogaze.mllm.prompt import Kind
from autogaze.mllm.units import KeptUnits


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


class InternVLProcessorAdapter(ShuffledProcessorAdapter):
    """Every frame, and all tiles of an image, stand between a start and an end token."""

    tokens: ClassVar[Mapping[Kind, str]] = {"video": "<video>", "image": "<IMG_CONTEXT>"}
    sequence = ("image_seq_length", 256)
    image_class = "got_ocr2:GotOcr2ImageProcessor"

    def placeholder(self, kind: Kind) -> str:
        name = "context_image_token" if kind == "image" else "video_token"
        return str(self.own(name, self.tokens[kind]))

    def spread(self, num_frames: int, count: int) -> list[int]:
        step = num_frames / count
        shift = setting(self.settings("video"), "initial_shift", True)
        first = step / 2 if shift is True else float(shift)
        return torch.arange(first, num_frames, step).int().tolist()

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        frames = range(kept.grid.tubelets)
        text = "\n".join(f"Frame{frame + 1}: {self._units}" for frame in frames)
        return Expansion(text, tuple((frame, frame + 1, 0) for frame in frames))

    def image(self, pixels: UInt8[Tensor, "3 H W"], together: int) -> WholeImage:
        crops, _ = self.crops(pixels, crop_to_patches=True)
        return self.whole_image(crops, Expansion(self._units, ((0, len(crops), 0),)))

    @property
    def _units(self) -> str:
        """A block of units between its two tokens."""
        start = self.own("start_image_token", "<img>")
        end = self.own("end_image_token", "</img>")
        return f"{start}{self.unit_token('video')}{end}"
