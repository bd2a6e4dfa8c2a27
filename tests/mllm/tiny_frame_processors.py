"""Files of tiny processors of the families that take frames one by one, as checkpoints have them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.mllm import tiny, tiny_models

CLASSES = {
    "llava_onevision": "LlavaOnevisionProcessor",
    "smolvlm": "SmolVLMProcessor",
    "internvl": "InternVLProcessor",
}
IMAGES = {
    "llava_onevision": "<image>",
    "smolvlm": "<image>",
    "internvl": "<IMG_CONTEXT>",
}
"""Placeholders of images; that of videos is <video>."""

_NAMED = {
    "llava_onevision": {"image_token": (tiny.IMAGE, "<image>"), "video_token": (tiny.VIDEO, "<video>")},
    "smolvlm": {
        "image_token": (tiny.IMAGE, "<image>"),
        "fake_image_token": (tiny.START, "<fake_token_around_image>"),
        "global_image_token": (tiny.END, "<global-img>"),
    },
    "internvl": {
        "context_image_token": (tiny.IMAGE, "<IMG_CONTEXT>"),
        "video_token": (tiny.VIDEO, "<video>"),
        "start_image_token": (tiny.START, "<img>"),
        "end_image_token": (tiny.END, "</img>"),
    },
}  # fmt: skip
_ALSO = {
    "smolvlm": {
        54: "<end_of_utterance>",
        **{55 + n: f"<row_{n // 2 + 1}_col_{n % 2 + 1}>" for n in range(4)},
    }
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n:.,[]?-"

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}<video>\n"
    "{% elif part['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Letters, so that every character of a prompt counts, and the family's special tokens."""
    special = {
        **{tiny.PAD: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"},
        **dict(_NAMED[family].values()),
        **_ALSO.get(family, {}),
    }
    free = sorted(set(range(tiny_models.VOCABULARY)) - set(special))
    words = ["<unk>", *_LETTERS, *map("word{}".format, free)]
    vocabulary = {word: number for number, word in special.items()}
    vocabulary |= dict(zip(words, free, strict=False))
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.add_special_tokens(list(special.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={name: word for name, (_, word) in _NAMED[family].items()},
    )


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
PINPOINTS = [[22, 44], [44, 22], [44, 44]]


def files(family: str, **video: Any) -> dict[str, dict[str, Any]]:
    """Settings of the tiny models of `tests.mllm.tiny_frames`."""
    frames: dict[str, Any] = {"image_mean": MEAN, "image_std": STD}
    if family == "llava_onevision":
        frames |= {"size": {"height": 22, "width": 22}, "resample": 3}
        images = {**frames, "image_grid_pinpoints": PINPOINTS}
        own: dict[str, Any] = {
            "num_image_tokens": 25,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_4",
        }
        kinds = ("LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor")
    elif family == "smolvlm":
        frames |= {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
        images = {**frames, "do_image_splitting": True, "resample": 1}
        frames["video_sampling"] = {"fps": 1, "max_frames": 3, "video_size": {"longest_edge": 64}}
        own = {"image_seq_len": 16}
        kinds = ("SmolVLMImageProcessor", "SmolVLMVideoProcessor")
    else:
        frames |= {"size": {"height": 32, "width": 32}, "resample": 3}
        images = {**frames, "max_patches": 4}
        own = {"image_seq_length": 16}
        kinds = ("GotOcr2ImageProcessor", "InternVLVideoProcessor")
    named = {"processor_class": CLASSES[family]}
    return {
        "config.json": {"model_type": family},
        "processor_config.json": {**own, **named},
        "preprocessor_config.json": {**images, **named, "image_processor_type": kinds[0]},
        "video_preprocessor_config.json": {
            **{**frames, **video},
            **named,
            "video_processor_type": kinds[1],
        },
    }


def checkpoint(folder: Path, family: str, **video: Any) -> Path:
    """A folder with these files, tokenizer and chat template; `video` changes settings of frames."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(family).save_pretrained(folder)
    # Of any class that both versions of transformers know.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["extra_special_tokens"] = {name: word for name, (_, word) in _NAMED[family].items()}
    path.write_text(json.dumps(config))
    for name, values in files(family, **video).items():
        (folder / name).write_text(json.dumps(values))
    template = TEMPLATE.replace("IMAGE", IMAGES[family])
    (folder / "chat_template.jinja").write_text(template)
    return folder
