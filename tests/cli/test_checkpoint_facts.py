"""Facts of checkpoints read without PyTorch are those of the loaded model, or left to it."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autogaze.cli.checkpoint_facts import checkpoint_facts
from autogaze.errors import AutoGazeError
from autogaze.selectors import registry
from autogaze.weights import SELECTOR
from tests.cli.commands import fails
from tests.models.autogaze.tiny import tiny_model

NAN = float("nan")


def loaded_facts(folder: Path) -> dict[str, Any]:
    """What the loaded model says."""
    selector = registry.load(folder)
    return {
        "kind": "checkpoint",
        "selector": selector.name,
        "pyramid": str(selector.pyramid),
        "patches_per_frame": selector.pyramid.num_patches,
        "metric": selector.metric,
        "judge": selector.metric,
        "default_loss": selector.default_loss,
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change(folder: Path, place: tuple[str, ...], value: Any) -> None:
    file = folder / "config.json"
    config = part = json.loads(file.read_text())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"K": 1, "kv_heads": 2},
        {"decode_positions": "sequential", "inhibition_of_return": 0.1},
        {"task_loss_requirement_config": {"fixed": {"task_loss_requirement": 2}}},
    ],
)
def test_they_are_those_of_the_loaded_model(changes: dict[str, Any], tmp_path: Path) -> None:
    tiny_model(**changes).save_pretrained(tmp_path)
    assert checkpoint_facts(tmp_path) == loaded_facts(tmp_path)


def test_of_the_weights_that_come_with_the_package() -> None:
    assert checkpoint_facts(SELECTOR) == loaded_facts(SELECTOR)


def test_rope_as_transformers_4_writes_it(checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    decoder = config["gaze_model_config"]["gaze_decoder_config"]
    rope = decoder.pop("rope_parameters")
    decoder |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    file.write_text(json.dumps(config))
    assert checkpoint_facts(checkpoint) == loaded_facts(checkpoint)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.popitem(),
        lambda state: state.update(surprise=torch.zeros(1)),
        lambda state: state.update({name: value[:1] for name, value in state.items()}),
        lambda state: next(iter(state.values())).view(-1)[:1].fill_(NAN),
        lambda state: state["gazing_model.connector.pos_embed"].fill_(float("inf")),
    ],
)
def test_damaged_weights_are_still_refused(spoil: Any, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    state = load_file(file)
    spoil(state)
    save_file({name: value.contiguous() for name, value in state.items()}, file, {"format": "pt"})
    assert checkpoint_facts(checkpoint) is None
    assert str(checkpoint) in fails("info", checkpoint)


def test_no_weights_and_pickles_are_still_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert checkpoint_facts(checkpoint) is None
    assert "pytorch_model.bin" in fails("info", checkpoint)


def test_half_precision_is_left_to_the_model(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert checkpoint_facts(tmp_path) is None
    assert loaded_facts(tmp_path)["pyramid"] == "32+64 / 16"


def places(part: dict[str, Any], *before: str) -> list[tuple[str, ...]]:
    """Every option of a configuration."""
    found = []
    for key, value in part.items():
        found.append((*before, key))
        found += places(value, *before, key) if isinstance(value, dict) else []
    return found


def test_a_wrong_option_is_never_described(checkpoint: Path) -> None:
    """Whatever stands in a config.json: the facts of the loaded model, or none."""
    original = (checkpoint / "config.json").read_text()
    options = places(json.loads(original))
    wrong = [None, 0, -1, 1.5, 2**63, NAN, "x", "16", True, [], [1], {}, {"a": 1}]
    draw = random.Random(0)
    described = 0
    for place in draw.sample(options, 40):
        value = draw.choice(wrong)
        (checkpoint / "config.json").write_text(original)
        change(checkpoint, place, value)
        if (facts := checkpoint_facts(checkpoint)) is None:
            continue
        described += 1
        try:
            assert facts == loaded_facts(checkpoint), (place, value)
        except AutoGazeError as error:
            pytest.fail(f"{place} = {value!r} was described, but cannot be loaded: {error}")
    assert 0 < described < 40  # of options that are ignored in the parts


def test_it_needs_no_torch(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("the model should not be loaded")

    monkeypatch.setattr(registry, "load", never)
    assert checkpoint_facts(checkpoint) is not None
    shutil.rmtree(checkpoint)
    assert checkpoint_facts(checkpoint) is None
