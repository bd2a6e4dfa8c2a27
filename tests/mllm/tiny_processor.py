"""Files of a tiny checkpoint's processor, without a network: tokenizer, settings, chat template."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.mllm import tiny, tiny_models

SPECIAL = {
    "<|endoftext|>": tiny.PAD,
    "<|im_start|>": 1,
    "<|im_end|>": 2,
    "<|vision_start|>": tiny.START,
    "<|vision_end|>": tiny.END,
    "<|image_pad|>": tiny.IMAGE,
    "<|video_pad|>": tiny.VIDEO,
}
_WORDS = ["<unk>", "user", "assistant", "What", "moves", "Answer", "<", ">", ".", "seconds", "?"]
_KNOWN = {
    **SPECIAL,
    **{word: 3 + index for index, word in enumerate(_WORDS)},
    **{str(digit): 20 + digit for digit in range(10)},
}
_FREE = sorted(set(range(tiny_models.VOCABULARY)) - set(_KNOWN.values()))
VOCABULARY = {**_KNOWN, **{f"word{number}": number for number in _FREE}}

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of white space and punctuation, single digits, and the special tokens of Qwen-VL."""
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
    )


def settings(**changed: Any) -> dict[str, Any]:
    """Of frames for the tiny models: patches of 4 pixels."""
    return {
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
        "size": {"shortest_edge": 4 * 64, "longest_edge": 1 << 20},
        **changed,
    }


def checkpoint(folder: Path, model_type: str, **video: Any) -> Path:
    """A folder with the files of a processor of a family, as published checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    # Of any class that both versions of transformers know.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("extra_special_tokens", None)
    path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    classes = {"qwen3_vl": "Qwen3VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}
    named = {"processor_class": classes[model_type]}
    files = {
        "config.json": {"model_type": model_type, "vision_config": {"tokens_per_second": 2}},
        "preprocessor_config.json": {**settings(), **named},
        "video_preprocessor_config.json": {**settings(**video), **named},
        "chat_template.json": {"chat_template": TEMPLATE},
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    return folder
