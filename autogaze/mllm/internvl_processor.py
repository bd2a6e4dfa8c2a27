"""The processor's side of InternVL: numbered frames, and images of up to 12 tiles and a thumbnail."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.mllm.dense_prompt import Kind
from autogaze.mllm.frame_processor import ShuffledProcessorAdapter
from autogaze.mllm.processor_adapter import Expansion, FrameTimes, WholeImage, setting
from autogaze.mllm.units import KeptUnits


class InternVLProcessorAdapter(ShuffledProcessorAdapter):
    """Every frame, and all tiles of an image, stand between a start and an end token."""

    tokens: ClassVar[Mapping[Kind, str]] = {"video": "<video>", "image": "<IMG_CONTEXT>"}
    sequence = ("image_seq_length", 256)
    image_class = "GotOcr2ImageProcessor"

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
        return WholeImage(
            grid=self.grid("image", len(crops), 0, 0),
            pixels=self.units_of(crops),
            expansion=Expansion(self._units, ((0, len(crops), 0),)),
            num_crops=len(crops),
            side=self.frame_side("image"),
        )

    @property
    def _units(self) -> str:
        """A block of units between its two tokens."""
        start = self.own("start_image_token", "<img>")
        end = self.own("end_image_token", "</img>")
        return f"{start}{self.unit_token('video')}{end}"
