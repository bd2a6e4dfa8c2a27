"""`gazed_mllm("folder")`: checkpoints that are loaded, and those that are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import autogaze
from autogaze.errors import CheckpointError
from autogaze.mllm.nvila import AutoGazeMLLM
from tests.mllm.nvila.tiny import make_model
from tests.mllm.tiny import qwen3_vl

WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    qwen3_vl().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_folder_is_loaded_with_its_options(saved):
    model = autogaze.gazed_mllm(saved, dtype=torch.float64)
    own = {name: value.double() for name, value in qwen3_vl().state_dict().items()}
    loaded = model.state_dict()
    assert loaded.keys() == own.keys()
    assert all(loaded[name].equal(own[name]) for name in own)


@pytest.mark.parametrize("place", ["", "inner"])
@pytest.mark.parametrize("load", [autogaze.gazed_mllm, AutoGazeMLLM.from_pretrained])
def test_weights_in_pickles_are_refused_and_not_executed(load, place, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    make = qwen3_vl if load is autogaze.gazed_mllm else make_model
    make().save_pretrained(tmp_path / place)
    (tmp_path / place / WEIGHTS).unlink()
    torch.save({"x": Evil()}, tmp_path / place / PICKLE)
    options = {"subfolder": place} if place else {}
    with pytest.raises(CheckpointError, match=rf"{PICKLE}.*save_file"):
        load(tmp_path, **options)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("damage", ["missing", "misshapen", "cut", "none", "no model"])
def test_nothing_is_filled_in_at_random(folder, damage):
    named = folder.name
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if name.endswith("proj.weight"))
    if damage == "missing":
        del state[name]
        named = name.rpartition("visual.")[2]
    elif damage == "misshapen":
        state[name] = state[name][:3].clone()
        named = name.rpartition("visual.")[2]
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    if damage == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    elif damage == "none":
        (folder / WEIGHTS).unlink()
    elif damage == "no model":
        (folder / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model"}))
    with pytest.raises(CheckpointError, match=named):
        autogaze.gazed_mllm(folder)
