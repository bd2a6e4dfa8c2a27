"""A tiny model and processor of random weights, for tests."""

from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from autogaze import PatchPyramid
from autogaze.mllm.nvila import AutoGazeMLLM, AutoGazeMLLMConfig, AutoGazeMLLMProcessor
from autogaze.mllm.nvila.frames import frame_numbers, open_video
from autogaze.video.motion import MotionField

PYRAMID = PatchPyramid((28, 56), 14)  # 4 + 16 patches
VOCABULARY = 64
WORDS = [f"word{number}" for number in range(VOCABULARY - 4)]
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 84,
    "patch_size": 14,
    "scales": "28+56",
    "vision_use_head": False,
}
LLM = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<pad>", "<vila/video>", "<image>", *WORDS]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", model_max_length=10**6
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<vila/video>", "<image>"]})
    return tokenizer


def make_config(**changes: Any) -> AutoGazeMLLMConfig:
    llm, tower = changes.pop("text_config", {}), changes.pop("vision_config", {})
    return AutoGazeMLLMConfig({**LLM, **llm}, {**TOWER, **tower}, **changes)


def make_model(seed: int = 0, config: Any = None, kind: Any = AutoGazeMLLM, **changes: Any) -> Any:
    """All parameters random, biases and norms too: zeros would hide errors."""
    torch.manual_seed(seed)
    model = kind(config or make_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_processor(**changes: Any) -> AutoGazeMLLMProcessor:
    options = {
        "num_video_frames": 4,
        "num_video_frames_thumbnail": 2,
        "max_tiles_video": 4,
        "gazing_ratio_tile": 0.3,
        "task_loss_requirement_tile": None,
        "gazing_ratio_thumbnail": 1,
        "task_loss_requirement_thumbnail": None,
        "target_scales": [28, 56],
        "autogaze_model_id": "centre",
    }
    return AutoGazeMLLMProcessor(make_tokenizer(), **{**options, **changes})


def make_frames(
    num_frames: int = 20, height: int = 64, width: int = 128, seed: int = 0
) -> np.ndarray:
    """(T, H, W, 3) coarse noise that changes slowly."""
    generator = np.random.default_rng(seed)
    start, end = generator.integers(0, 255, (2, height // 8, width // 8, 3)).astype(float)
    share = np.linspace(0, 1, num_frames)[:, None, None, None]
    small = start * (1 - share) + end * share
    return small.round().astype(np.uint8).repeat(8, 1).repeat(8, 2)


class SampledFrame(NamedTuple):
    """A frame as NVILA samples it."""

    number: int
    seconds: float
    pixels: torch.Tensor
    motion: MotionField | None


def sample(video, wanted, *, skip_corrupt=False, motion=False):
    """The sampled frames of a video."""
    source = open_video(video, skip_corrupt=skip_corrupt)
    numbers = frame_numbers(source.num_frames, wanted)
    frames = source.read(numbers, motion)
    return [SampledFrame(number, *frame) for number, frame in zip(numbers, frames, strict=True)]
