"""NVILA-HD-Video: wrong configurations, arguments, videos and checkpoints."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from autogaze.mllm.nvila import AutoGazeMLLM, AutoGazeMLLMConfig, AutoGazeMLLMProcessor
from tests.fuzz.material import Material
from tests.fuzz.mutation import VALUES, arrays, change_bytes, change_values, to_json
from tests.fuzz.outcomes import attempt, one_of
from tests.mllm.nvila.tiny import (
    LLM,
    TOWER,
    make_config,
    make_frames,
    make_model,
    make_processor,
)

CONFIGURATION = {
    "text_config": LLM,
    "vision_config": TOWER,
    "max_batch_size_siglip": 4,
    "mm_projector_shuffle_num": 9,
    "mm_projector_hidden_size": 40,
}


@functools.cache
def _tiny() -> tuple[Any, Any]:
    """A tiny model and its processor."""
    return make_model(), make_processor()


def nvila(material: Material, folder: Path, random: Random) -> str:
    """A wrong configuration, argument or checkpoint of an NVILA-HD-Video model."""
    kinds = (_configuration, _arguments, _arguments, _processor, _model, _model, _checkpoint)
    return random.choice(kinds)(material, folder, random)


def _configuration(material: Material, folder: Path, random: Random) -> str:
    changed = change_values(CONFIGURATION, random)[0]
    if not isinstance(changed, dict):
        changed = {"text_config": changed}

    def build() -> None:
        config = AutoGazeMLLMConfig(**changed)
        with torch.device("meta"):
            size = sum(weight.numel() for weight in AutoGazeMLLM(config).parameters())
        if not 2**25 < size < 2**40:  # a machine may have memory for what lies between
            AutoGazeMLLM(config)

    return attempt(build)


def _arguments(material: Material, folder: Path, random: Random) -> str:
    """An argument of the constructor, of another kind."""
    value = random.choice((*arrays(), *VALUES))
    names = [*make_processor().to_dict(), "selector"]
    names.remove("processor_class")
    name = random.choice(names)
    calls: list[Callable[[], Any]] = [
        lambda: make_processor(**{name: value}),
        lambda: make_processor(**{name: value})(text="<vila/video>", videos=make_frames(2)),
        lambda: AutoGazeMLLMProcessor(value),
    ]
    return one_of(calls, (name, value), random)


def _processor(material: Material, folder: Path, random: Random) -> str:
    """An argument of a processor's call, of another kind."""
    value = random.choice((*arrays(), *arrays(), *VALUES))
    _, processor = _tiny()
    prompt, frames = processor.prompt("word1"), make_frames(4)

    def call(**changes: Any) -> Any:
        return processor(**{"text": prompt, "videos": frames, **changes})

    names = ("ratio", "loss", "selector", "generator", "skip_corrupt", "published")
    names += ("return_tensors", "num_video_frames", "num_video_frames_thumbnail")
    names += ("max_tiles_video", "gazing_ratio_thumbnail", "max_batch_size_autogaze")
    name = random.choice(names)
    message = {"role": "user", "content": [{"type": "text", "text": value}]}
    calls: list[Callable[[], Any]] = [
        lambda: call(text=value),
        lambda: call(text=[prompt, value]),
        lambda: call(videos=value),
        lambda: call(videos=[value]),
        lambda: call(text=[prompt] * 2, videos=[frames, value]),
        lambda: call(**{name: value}),
        lambda: call(**{name: value}),
        lambda: call(**{name: value}),
        lambda: processor.prompt(value),
        lambda: processor.apply_chat_template(value, tokenize=False),
        lambda: processor.apply_chat_template([message], tokenize=False),
        lambda: processor.to(value),
    ]
    outcome = one_of(calls, (name, value), random)
    processor.to("cpu")
    return outcome


def _model(material: Material, folder: Path, random: Random) -> str:
    """An argument of a model's call, of another kind."""
    value = random.choice((*arrays(), *arrays(), *VALUES))
    model, processor = _tiny()
    published = random.random() < 0.4
    inputs = dict(
        processor(text=processor.prompt("word1"), videos=make_frames(4), published=published)
    )
    call = random.choice((model, model, functools.partial(model.generate, max_new_tokens=1)))
    if published:
        inputs["video_token_id"] = processor.video_token_id
    name = random.choice(list(inputs))
    if published and random.random() < 0.5:
        name = "gazing_info"
        inner = random.choice(list(inputs[name]))
        kept = inputs[name][inner]
        changed = {
            **inputs,
            name: {**inputs[name], inner: random.choice((value, [value, *kept[1:]]))},
        }
    else:
        changed = {**inputs, name: value}
        if isinstance(inputs[name], list) and random.random() < 0.5:
            changed[name] = [value]
    try:
        return attempt(lambda: call(**changed))
    except Exception as error:
        error.add_note(f"{name}: {repr(value)[:80]}")
        raise


def _checkpoint(material: Material, folder: Path, random: Random) -> str:
    """A folder of a model and its processor, of which a file is changed or taken away."""
    target = folder / "wrong"
    make_model(config=make_config()).save_pretrained(target)
    make_processor().save_pretrained(target)
    choice = random.randrange(4)
    if choice == 0:
        random.choice(sorted(target.iterdir())).unlink()
    elif choice == 1:
        path = random.choice(sorted(target.iterdir()))
        path.write_bytes(change_bytes(path.read_bytes(), random))
    else:
        path = target / random.choice(("config.json", "processor_config.json"))
        path.write_text(to_json(change_values(json.loads(path.read_text()), random)[0]))
    outcomes = [
        attempt(lambda: AutoGazeMLLM.from_pretrained(target), "wrong"),
        attempt(lambda: AutoGazeMLLMProcessor.from_pretrained(target), "wrong"),
    ]
    return min(outcomes)
