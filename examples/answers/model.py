"""A tiny Qwen3-VL for the benchmark, its words and its prompts."""

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from answers.drawing import FPS, GRID, NUM_FRAMES, SIDE, TUBELETS, UNIT
from answers.questions import ANSWERS, QUESTIONS
from autogaze.errors import CheckpointError
from autogaze.mllm.stock_processor import StockProcessor

PAD, START, VIDEO, IMAGE, END = (
    "<|endoftext|>", "<|vision_start|>", "<|video_pad|>", "<|image_pad|>", "<|vision_end|>",
)  # fmt: skip
TIMES = tuple(f"<{(2 * t + 0.5) / FPS:.1f} seconds>" for t in range(TUBELETS))
"""Qwen3-VL's timestamps, mean time of a tubelet's two frames; each is a word here."""
SPECIAL = (PAD, START, VIDEO, IMAGE, END, *TIMES)
_TEXT = [*QUESTIONS.values(), *(" ".join(words) for words in ANSWERS.values())]
WORDS = {
    word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *" ".join(_TEXT).split()]))
}
"""Word -> id."""


FRAMES = {
    "patch_size": UNIT // 2,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "size": {"shortest_edge": UNIT**2, "longest_edge": NUM_FRAMES * SIDE**2},
    "fps": FPS,
}
"""Settings of a video processor."""
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    f"{{{{ '{VIDEO}' if part.type == 'video' else part.text }}}}"
    "{% endfor %}{% endfor %}"
)
"""Chat template: the video, then the question."""


def encode(text: str) -> list[int]:
    """Ids of words that stand apart by spaces."""
    return [WORDS[word] for word in text.split()]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The same words as a tokenizer of transformers; capitals and missing spaces do not matter."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token=PAD))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, additional_special_tokens=list(SPECIAL[1:])
    )


def make_model(
    seed: int = 0, width: int = 128, layers: int = 4, vision_width: int = 96, vision_layers: int = 3
) -> Qwen3VLForConditionalGeneration:
    """An untrained model; the defaults are those of the benchmark, 1.5 M parameters."""
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "initializer_range": 0.05,
            "pad_token_id": WORDS[PAD],
            "rope_theta": 1000.0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_heads": vision_width // 24,
            "out_hidden_size": width,
            "num_position_embeddings": (2 * GRID) ** 2,
            "deepstack_visual_indexes": [],
            "initializer_range": 0.05,
        },
        image_token_id=WORDS[IMAGE],
        video_token_id=WORDS[VIDEO],
        vision_start_token_id=WORDS[START],
        vision_end_token_id=WORDS[END],
        tie_word_embeddings=False,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    return model


def save(model: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """Write a folder of a whole checkpoint, processor included; weights in float16."""
    copy.deepcopy(model).half().save_pretrained(folder)
    processor = StockProcessor(
        model_type=model.config.model_type,
        processor_class="Qwen3VLProcessor",
        tokenizer=make_tokenizer(),
        video=FRAMES,
        image={},
        chat_template=TEMPLATE,
    )
    processor.save(folder)


def load(folder: Path) -> Qwen3VLForConditionalGeneration:
    """A saved model, in float32.

    Raises:
        CheckpointError: no such folder, or one that holds no Qwen3-VL.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json, so this is no folder of a model")
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
