"""Gazed multimodal LLMs: wrong units, prompts and options."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

import autogaze
from autogaze.mllm import KeptUnits, UnitGrid
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.processor_adapter import Sampling
from tests.fuzz.material import Material
from tests.fuzz.mutation import VALUES, arrays
from tests.fuzz.outcomes import one_of
from tests.mllm import tiny


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
