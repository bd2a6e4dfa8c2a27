"""What tiny random multimodal LLMs of the real classes have in common."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autogaze.mllm import KeptUnits

VOCABULARY = 64
START, END, IMAGE, VIDEO, PAD = 50, 51, 52, 53, 0

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def random_model(model_class: Any, config: Any, seed: int = 0) -> Any:
    """A model in which no parameter is zero, norms and biases included: zeros would hide errors."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.generation_config.do_sample = False
    return model


@dataclass(frozen=True)
class Video:
    """A dense video or image of a prompt: tubelets, and rows and columns of units."""

    tubelets: int
    rows: int
    columns: int
    image: bool = False
    seconds: float = 1.0


@dataclass(frozen=True)
class Family:
    """A tiny model and how its dense inputs are made.

    Args:
        build: makes the model.
        rows: makes a dense input of rows of text ids and videos.
        video, second, image: videos of different sizes, and an image, that it takes.
        tokens: what the vision encoder sees of kept units, in any measure.
    """

    build: Any
    rows: Any
    video: Video
    second: Video
    image: Video | None
    tokens: Callable[[KeptUnits], int] = operator.attrgetter("num_units")
