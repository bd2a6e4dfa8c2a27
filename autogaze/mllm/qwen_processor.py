"""The processor's side of Qwen2.5-VL, Qwen3-VL and Qwen3.5: sampling, frame sizes and timestamps."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from autogaze.mllm.adapter import IS_TRANSFORMERS_4, VisualInput
from autogaze.mllm.checks import as_channels
from autogaze.mllm.frames import PatchFormat, bounded_size, check_aspect, clip_size, native_size
from autogaze.mllm.processor_adapter import (
    Expansion,
    FrameTimes,
    ProcessorAdapter,
    Sampling,
    check_count,
    check_steps,
    setting,
)
from autogaze.mllm.prompt import Kind, MRopePositions, PositionRule
from autogaze.mllm.qwen2_5_vl import time_positions
from autogaze.mllm.sampled_video import ASSUMED_RATE
from autogaze.mllm.stock_processor import StockProcessor
from autogaze.mllm.units import KeptUnits
from autogaze.utils.normalization import CLIP

_START, _END = "<|vision_start|>", "<|vision_end|>"

_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True}
"""What is done to every frame and image; settings that ask for something else are refused."""

_BICUBIC = 3  # Pillow's number


class QwenProcessorAdapter(ProcessorAdapter):
    """What both have in common: 2 x 2 patches per unit, sizes by bounds on the pixels."""

    tokens: ClassVar[Mapping[Kind, str]] = {"video": "<|video_pad|>", "image": "<|image_pad|>"}
    patch: ClassVar[int]
    mean: ClassVar[tuple[float, ...]] = CLIP.mean
    std: ClassVar[tuple[float, ...]] = CLIP.std
    whole_clip: ClassVar[bool] = False
    default_fps: ClassVar[float] = 2.0
    is_sampled: ClassVar[bool] = False
    """Whether the stock class samples where settings do not say; only then they may say that it does
    not. Without, they say so in every file that the stock class writes, which means nothing."""

    def __init__(self, stock: StockProcessor) -> None:
        super().__init__(stock)
        check_steps(self.settings("video"), "video processor", _STEPS, _BICUBIC)
        check_steps(self.settings("image"), "image processor", _STEPS, _BICUBIC)

    def form(self, kind: Kind) -> PatchFormat:
        settings = self.settings(kind)
        mean, std = (
            as_channels(setting(settings, name, default), name)
            for name, default in (("image_mean", self.mean), ("image_std", self.std))
        )
        return PatchFormat(
            patch=setting(settings, "patch_size", self.patch),
            merge=setting(settings, "merge_size", 2),
            tubelet=setting(settings, "temporal_patch_size", 2),
            mean=mean,
            std=std,
        )

    def frame_size(
        self, kind: Kind, height: int, width: int, num_frames: int, native: bool
    ) -> tuple[int, int]:
        check_aspect(height, width)
        form = self.form(kind)
        if native:
            return native_size(height, width, form.unit)
        smallest, largest = self._bounds(kind)
        if kind == "video" and self.settings(kind).get("cap_pixels_per_frame"):
            largest = self.capped(smallest, largest, num_frames, form)
        if kind == "video" and self.whole_clip:
            return clip_size(height, width, num_frames, form, smallest, largest)
        return bounded_size(height, width, form, smallest, largest)

    def _bounds(self, kind: Kind) -> tuple[int, int]:
        """The fewest and most pixels of a frame or clip."""
        settings, area = self.settings(kind), (self.patch * 2) ** 2
        default = (128 * area, 768 * area) if kind == "video" else (4 * 28**2, 1280 * 28**2)
        size = settings.get("size") or {}
        named = zip(("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels"), strict=True)
        smallest, largest = (
            setting(settings, older, setting(size, name, fallback))
            for (name, older), fallback in zip(named, default, strict=True)
        )
        return int(smallest), int(largest)

    def capped(self, smallest: int, largest: int, num_frames: int, form: PatchFormat) -> int:
        """The most pixels, of a frame or clip, with `cap_pixels_per_frame`."""
        raise NotImplementedError

    def sample(self, num_frames: int, rate: float | None, sampling: Sampling) -> list[int]:
        settings = self.settings("video")
        count, fps = sampling.num_frames, sampling.fps
        every = sampling.every
        if every is None and count is None and fps is None and self.is_sampled:
            every = not setting(settings, "do_sample_frames", True)
        if every:
            return list(range(num_frames))
        if count is None and fps is None:
            count = settings.get("num_frames")
            fps = None if count is not None else setting(settings, "fps", self.default_fps)
        if count is not None:
            check_count(count, num_frames)
            return self.spread(num_frames, self.counted(count, num_frames))
        wanted = num_frames / (rate or ASSUMED_RATE) * (fps or self.default_fps)
        least, most = setting(settings, "min_frames", 4), setting(settings, "max_frames", 768)
        return self.spread(num_frames, self.at_rate(wanted, least, min(most, num_frames)))

    def counted(self, count: int, num_frames: int) -> int:
        """How many frames are taken where `count` were asked for."""
        return count

    def at_rate(self, wanted: float, least: int, most: int) -> int:
        """How many frames are taken where a rate asks for `wanted`."""
        raise NotImplementedError

    def spread(self, num_frames: int, count: int) -> list[int]:
        """So many numbers, over the whole video."""
        raise NotImplementedError


class Qwen25VLProcessorAdapter(QwenProcessorAdapter):
    """Qwen2.5-VL: bounds on the pixels of a frame, whole tubelets, no timestamps."""

    patch = 14

    def capped(self, smallest: int, largest: int, num_frames: int, form: PatchFormat) -> int:
        tokens = setting(self.settings("video"), "max_video_tokens", 128_000)
        total = int(tokens * form.unit**2 * 0.9)
        return max(min(largest, total * form.tubelet // num_frames), int(smallest * 1.05))

    def counted(self, count: int, num_frames: int) -> int:
        tubelet = self.form("video").tubelet
        # A video shorter than a tubelet is one, whose last frame stands for those missing.
        return max(1, min(round(count / tubelet), num_frames // tubelet) * tubelet)

    def at_rate(self, wanted: float, least: int, most: int) -> int:
        tubelet = self.form("video").tubelet
        count = min(max(wanted, least), most // tubelet * tubelet)
        return max(1, math.floor(count / tubelet) * tubelet)

    def spread(self, num_frames: int, count: int) -> list[int]:
        return torch.arange(0, num_frames, num_frames / count).int().tolist()[:count]

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        return Expansion(self.placeholder(kind), ((0, kept.grid.tubelets, 0),))

    def interval(self, kind: Kind, times: FrameTimes) -> float | None:
        if kind == "image":
            return None
        tubelet = self.form(kind).tubelet
        if IS_TRANSFORMERS_4:  # which goes by what was asked for, whatever the video's rate
            return tubelet / (times.fps or 2.0)
        rate = times.rate or ASSUMED_RATE
        share = len(times.seconds) / (times.source_frames or len(times.seconds))
        return tubelet / (share * rate)

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        vision = self.stock.model.get("vision_config") or {}
        return time_positions(visuals, vision.get("tokens_per_second") or 2)


class Qwen3VLProcessorAdapter(QwenProcessorAdapter):
    """Qwen3-VL and Qwen3.5: bounds on the pixels of a clip, a timestamp before every tubelet."""

    patch = 16
    mean = std = (0.5, 0.5, 0.5)
    whole_clip = True
    is_sampled = True

    def capped(self, smallest: int, largest: int, num_frames: int, form: PatchFormat) -> int:
        tokens = setting(self.settings("video"), "max_video_tokens", 768)
        per_frame = min(tokens * form.unit**2, largest // num_frames)
        return max(per_frame, int(smallest * 1.05)) * num_frames

    def at_rate(self, wanted: float, least: int, most: int) -> int:
        return min(max(int(wanted), least), most)

    def spread(self, num_frames: int, count: int) -> list[int]:
        return np.linspace(0, num_frames - 1, count).round().astype(int).tolist()

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        token = self.placeholder(kind)
        if kind == "image":
            return Expansion(token, ((0, 1, 0),))
        tubelet = self.form(kind).tubelet
        text, blocks = "", []
        for number in range(kept.grid.tubelets):
            first = times.seconds[number * tubelet]
            last = times.seconds[min((number + 1) * tubelet, len(times.seconds)) - 1]
            text += f"<{(first + last) / 2:.1f} seconds>{_START}{token}{_END}"
            blocks.append((number, number + 1, 0))
        return Expansion(text, tuple(blocks))

    def prepare_text(self, text: str) -> str:
        token = self.placeholder("video")
        # Each tubelet brings its own start and end; from transformers 5.10 on those around them stay.
        from transformers import Qwen3VLProcessor

        if hasattr(Qwen3VLProcessor, "replace_video_token"):
            return text
        return text.replace(f"{_START}{token}{_END}", token)

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        return MRopePositions()
