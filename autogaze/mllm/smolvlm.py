"""SmolVLM and SmolVLM2: frames are images, a block of placeholders each, announced by their times.

A unit is a square of patches side by side (pixel shuffle). The frames and images of a row of a
dense input count as the frames of one video, since nothing there tells them apart.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor, nn

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import VisualFeatures, VisualInput
from autogaze.mllm.frame_processor import ShuffledProcessorAdapter
from autogaze.mllm.frame_tower import ShuffledAdapter
from autogaze.mllm.processor_adapter import Expansion, FrameTimes, Sampling, WholeImage, setting
from autogaze.mllm.prompt import Kind
from autogaze.mllm.sampled_video import ASSUMED_RATE
from autogaze.mllm.units import KeptUnits


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


_MAX_SIDE = 4096
_SKIPPED = 1
"""Seconds at either end of a long video that are not sampled."""

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class SmolVLMProcessorAdapter(ShuffledProcessorAdapter):
    """Frames are made as large as the settings say, and then square; conversations are sampled."""

    mean = std = (0.5, 0.5, 0.5)
    resample = 1
    sequence = ("image_seq_len", 169)
    image_class = "smolvlm:SmolVLMImageProcessor"
    chat_samples = True
    # The one of checkpoints writes no frames; the family's processor takes this for videos instead.
    video_template = (
        "<|im_start|>{% for message in messages %}{% set content = message['content'] %}"
        "{{ message['role'] | capitalize }}:"
        "{% if content is string %} {{ content }}{% else %}"
        "{% if content[0]['type'] != 'image' %} {% endif %}"
        "{% for part in content %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% elif part['type'] in ('image', 'video') %}<{{ part['type'] }}>{% endif %}{% endfor %}"
        "{% endif %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )

    def frame_side(self, kind: Kind) -> int:
        size = setting(self.settings(kind), "max_image_size", {"longest_edge": 364})
        if not (isinstance(size, Mapping) and size.get("longest_edge")):
            raise MLLMError(f"frames are squares of max_image_size, a longest_edge, got {size}")
        return int(size["longest_edge"])

    def resize(
        self, kind: Kind, frames: UInt8[Tensor, "T 3 H W"], height: int, width: int
    ) -> UInt8[Tensor, "T 3 h w"]:
        if kind == "video":
            frames = super().resize(kind, frames, *self._first_size(*frames.shape[-2:]))
        return super().resize(kind, frames, height, width)

    def _first_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that frames have before they are squared."""
        settings = self.settings("video")
        sampled = settings.get("video_sampling") or {}
        default = setting(sampled, "video_size", {"longest_edge": 4 * 364})
        size = setting(settings, "size", default)
        longest = size.get("longest_edge")
        if not longest:
            if not (size.get("height") and size.get("width")):
                raise MLLMError(
                    f"size of the video processor must be a longest_edge, or height and width, got {size}"
                )
            return int(size["height"]), int(size["width"])
        longest = min(_MAX_SIDE, int(longest))
        if width >= height:
            return max(1, _even(int(longest / (width / height)))), longest
        return longest, max(1, _even(int(longest * (width / height))))

    def default_sampling(self, settings: Mapping[str, Any]) -> tuple[int | None, float | None]:
        own = settings.get("video_sampling") or {}
        older = own.get("max_frames"), own.get("fps")
        usual = settings.get("num_frames"), settings.get("fps")
        # When it is made, the stock processor writes the older settings over the others.
        first, second = (older, usual) if self.stock.original is None else (usual, older)
        most, fps = (
            other if one is None else one for one, other in zip(first, second, strict=True)
        )
        return most, fps

    def sample(self, num_frames: int, rate: float | None, sampling: Sampling) -> list[int]:
        count, fps = self.asked(sampling)
        if count is None and fps is None:
            return list(range(num_frames))
        # What is not asked for still bounds: a count is the most, a rate too.
        usual = self.default_sampling(self.settings("video"))
        most = usual[0] if count is None else count
        fps = usual[1] if fps is None else fps
        rate = rate or ASSUMED_RATE
        seconds = num_frames / rate
        wanted = [] if most is None else [most]
        if fps is not None:
            wanted.append(round(fps * seconds))
        first, last = 0, num_frames - 1
        if most is not None and fps is not None and seconds - 2 * _SKIPPED > most * fps:
            first = int(_SKIPPED * rate)
            last = min(last, int(num_frames - _SKIPPED * rate))
        if first >= last:
            first, last = 0, num_frames - 1
        return np.unique(np.linspace(first, last, max(1, min(wanted)), dtype=int)).tolist()

    def sample_most(self, num_frames: int, most: int) -> list[int]:
        # The settings' rate is no bound here, as it is on `num_frames`.
        numbers = np.linspace(0, num_frames - 1, min(most, num_frames), dtype=int)
        return np.unique(numbers).tolist()

    def expand(self, kind: Kind, kept: KeptUnits, times: FrameTimes) -> Expansion:
        # The file's length, or the time of the last frame of those that were given decoded.
        seconds = times.seconds[-1] if times.duration is None else times.duration
        text = (
            f"You are provided the following series of {spelt(len(times.seconds))} frames from a "
            f"{timedelta(seconds=int(seconds))} [H:MM:SS] video.\n"
        )
        for second in times.seconds:
            text += f"\nFrame from {int(second // 60):02d}:{int(second % 60):02d}:{self._whole}"
        frames = range(kept.grid.tubelets)
        return Expansion(f"{text}\n\n", tuple((frame, frame + 1, 0) for frame in frames))

    def image(self, pixels: UInt8[Tensor, "3 H W"], together: int) -> WholeImage:
        crops, made = self.crops(pixels, return_row_col_info=True)
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        text = ""
        for row in range(rows):
            for column in range(columns):
                text += f"{self._edge}<row_{row + 1}_col_{column + 1}>{self.unit_token('image')}"
            text += "\n"
        text = f"{text}\n{self._whole}" if text else self._whole
        blocks = tuple((crop, crop + 1, 0) for crop in range(len(crops)))
        return self.whole_image(crops, Expansion(text, blocks))

    @property
    def _edge(self) -> str:
        """The token around frames and crops."""
        return str(self.own("fake_image_token", "<fake_token_around_image>"))

    @property
    def _whole(self) -> str:
        """A block of the units of a frame, or of an image as a whole."""
        whole = self.own("global_image_token", "<global-img>")
        return f"{self._edge}{whole}{self.unit_token('image')}{self._edge}"


def _even(length: int) -> int:
    """The next even number."""
    return length + length % 2


def spelt(number: int) -> str:
    """A number below a million in English words, as "one thousand, two hundred and thirty-four"."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_SMALL[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {spelt(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    between = "" if not rest else ", " if rest >= 100 else " and "
    return f"{spelt(thousands)} thousand{between}{spelt(rest) if rest else ''}"
