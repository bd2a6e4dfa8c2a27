"""Gazed multimodal LLMs: wrong units, prompts, options, configurations and checkpoints."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

import autogaze
from autogaze.mllm import KeptUnits, UnitGrid
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.nvila import AutoGazeMLLM, AutoGazeMLLMConfig, AutoGazeMLLMProcessor
from autogaze.mllm.processor_adapter import Sampling
from tests.fuzz.material import Material
from tests.fuzz.mutation import VALUES, arrays, change_bytes, change_values, to_json
from tests.fuzz.outcomes import attempt, one_of
from tests.mllm import tiny
from tests.mllm.nvila.tiny import (
    LLM,
    TOWER,
    make_config,
    make_frames,
    make_model,
    make_processor,
)


@functools.cache
def _gazed() -> tuple[Any, dict[str, Any]]:
    """A tiny gazed model, and a dense input for it."""
    inputs = tiny.FAMILIES["qwen3_vl"].rows([[3, 4, tiny.Video(2, 2, 2), 7]])
    return autogaze.gazed_mllm(tiny.qwen3_vl()), inputs


def mllm(material: Material, folder: Path, random: Random) -> str:
    """A wrong argument of a gazed model, of kept units, or of a processor's options."""
    value = random.choice((*arrays(), *arrays(), *VALUES))
    grid = UnitGrid(2, ((2, 2),))
    other = KeptUnits.everything(UnitGrid(3, ((2, 2),)))
    kept = KeptUnits.from_lists(grid, [[0, 3], [1]])
    ids, lengths = torch.tensor([0, 3, 1]), (2, 1)
    model, inputs = _gazed()
    whole = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    option = random.choice(GazeSettings.names())
    sampling = random.choice([field.name for field in dataclasses.fields(Sampling)])
    calls: list[Callable[[], Any]] = [
        lambda: UnitGrid(value, ((2, 2),)),
        lambda: UnitGrid(2, value),
        lambda: UnitGrid(2, (value,)),
        lambda: KeptUnits(value, ids, lengths),
        lambda: KeptUnits(grid, value, lengths),
        lambda: KeptUnits(grid, ids, value),
        lambda: KeptUnits.everything(value),
        lambda: KeptUnits.from_mask(value, torch.ones(2, 4, dtype=torch.bool)),
        lambda: KeptUnits.from_mask(grid, value),
        lambda: KeptUnits.from_lists(grid, value),
        lambda: KeptUnits.from_lists(grid, [value, [1]]),
        lambda: kept.between(value, 2),
        lambda: kept.between(0, value),
        lambda: autogaze.gazed_mllm(value),
        lambda: autogaze.register_mllm("fuzzed", value),
        lambda: model.compact(**inputs, kept=value),
        lambda: model.compact(**inputs, kept=[value]),
        lambda: model.compact(**inputs, kept=[other]),
        lambda: model.compact(**inputs, kept=[kept, value]),
        lambda: model.compact(**inputs, kept=[kept], kept_images=value),
        lambda: model.compact(**inputs, kept=[kept], padding_side=value),
        lambda: model.compact(**{**inputs, **whole, "input_ids": value}, kept=[kept]),
        lambda: model.compact(**{**inputs, **whole, "attention_mask": value}, kept=[kept]),
        lambda: model.compact(**{**inputs, "video_grid_thw": value}, kept=[kept]),
        lambda: model.compact(**{**inputs, "pixel_values_videos": value}, kept=[kept]),
        lambda: model(**inputs, kept=value),
        lambda: model(**inputs, gazed=value),
        lambda: model.generate(**inputs, gazed=value, max_new_tokens=1),
        lambda: GazeSettings(**{option: value}),
        lambda: Sampling(**{sampling: value}),
    ]
    return one_of(calls, value, random)


def nvila(material: Material, folder: Path, random: Random) -> str:
    """A wrong configuration, argument or checkpoint of an NVILA-HD-Video model."""
    kind = random.choice(("configuration", "configuration", "processor", "call", "checkpoint"))
    if kind == "checkpoint":
        return _nvila_checkpoint(folder, random)
    if kind == "configuration":
        values = {"text_config": LLM, "vision_config": TOWER, "max_batch_size_siglip": 4}
        values |= {"mm_projector_shuffle_num": 9, "mm_projector_hidden_size": 40}
        changed = change_values(values, random)[0]
        return attempt(lambda: AutoGazeMLLM(AutoGazeMLLMConfig(**changed)))
    value = random.choice((*arrays(), *VALUES))
    frames = make_frames(4)
    if kind == "processor":
        names = [*make_processor().to_dict(), "selector"]
        names.remove("processor_class")
        name = random.choice(names)
        calls: list[Callable[[], Any]] = [
            lambda: make_processor(**{name: value}),
            lambda: make_processor(**{name: value}).settings(),
            lambda: AutoGazeMLLMProcessor(value),
        ]
        return one_of(calls, (name, value), random)
    processor = make_processor()
    prompt = processor.prompt("word1")
    model = make_model()
    inputs = processor(text=prompt, videos=frames)
    calls = [
        lambda: processor(text=value, videos=frames),
        lambda: processor(text=[prompt, value], videos=frames),
        lambda: processor(text=prompt, videos=value),
        lambda: processor(text=[prompt] * 2, videos=[frames, value]),
        lambda: processor(text=prompt, videos=frames, ratio=value),
        lambda: processor(text=prompt, videos=frames, loss=value),
        lambda: processor(text=prompt, videos=frames, selector=value),
        lambda: processor(text=prompt, videos=frames, num_video_frames=value),
        lambda: processor(text=prompt, videos=frames, max_tiles_video=value),
        lambda: processor(text=prompt, videos=frames, return_tensors=value),
        lambda: processor.prompt(value),
        lambda: model(**{**inputs, "gazed_videos": value}),
        lambda: model(**{**inputs, "gazed_videos": [value]}),
        lambda: model(**{**inputs, "input_ids": value}),
        lambda: model(**{**inputs, "video_token_id": value}),
    ]
    return one_of(calls, value, random)


def _nvila_checkpoint(folder: Path, random: Random) -> str:
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
