"""Weights under the published names, in shards, and what is said where some do not fit."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from autogaze.errors import CheckpointError
from autogaze.mllm.nvila import AutoGazeMLLM, NVILAConfig, NVILAForConditionalGeneration
from autogaze.mllm.nvila.checkpoint import takes_prefix_off
from tests.mllm.nvila.tiny import make_config, make_frames, make_model, make_processor

OWN = ("0", "1", "3", "4", "6")
LAYERS = {
    "sequence": OWN,
    # As VILA's projectors name them, behind a layer without weights.
    "layers": ("layers.1", "layers.2", "layers.4", "layers.5", "layers.7"),
    "shifted": ("1", "2", "4", "5", "7"),
    # Numbers are ordered as numbers.
    "many": ("layers.2", "layers.3", "layers.9", "layers.10", "layers.12"),
}


def published_name(name: str, layers: tuple[str, ...], *, prefixed: bool) -> str:
    renamed = dict(zip(OWN, layers, strict=True))
    name = re.sub(r"^mm_projector\.(\d)", lambda m: f"mm_projector.{renamed[m[1]]}", name)
    return name if prefixed else name.replace("vision_tower.vision_model.", "vision_tower.")


def write(folder, state, *, shards: int = 1, model_type: str = "nvila"):
    """A checkpoint's folder, its weights in some shards."""
    config = make_config()
    values = {
        "model_type": model_type,
        "architectures": ["NVILAForConditionalGeneration"],
        "auto_map": {"AutoModel": "modeling_nvila.NVILAForConditionalGeneration"},
        "text_config": config.text_config.to_dict(),
        "vision_config": config.vision_config.to_dict(),
        "image_token_id": 3,
        "video_token_id": 2,
        "max_batch_size_siglip": 16,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: state[name] for name in sorted(state)[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def own_state():
    return {name: value.clone() for name, value in make_model(seed=7).state_dict().items()}


@pytest.fixture
def bare_names():
    """Names without `vision_model.` can be loaded."""
    if takes_prefix_off():
        pytest.skip("needs transformers 5.9, or one before 5.6")


def test_bare_names_that_would_be_taken_back_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("autogaze.mllm.nvila.checkpoint.takes_prefix_off", lambda: True)
    bare = {published_name(n, OWN, prefixed=False): value for n, value in own_state().items()}
    with pytest.raises(CheckpointError, match=r"5\.9"):
        NVILAForConditionalGeneration.from_pretrained(write(tmp_path / "model", bare))


@pytest.mark.parametrize("prefixed", [True, False], ids=["vision_model", "bare"])
@pytest.mark.parametrize("layers", LAYERS)
def test_every_weight_is_loaded(layers, prefixed, tmp_path, request):
    if not prefixed:
        request.getfixturevalue("bare_names")
    state = own_state()
    published = {
        published_name(name, LAYERS[layers], prefixed=prefixed): value
        for name, value in state.items()
    }
    folder = write(tmp_path / "model", published, shards=4)
    model, info = NVILAForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert type(model.config) is NVILAConfig
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert [name for name in state if not loaded[name].equal(state[name])] == []
    # The roots are those of the published checkpoint.
    roots = {name.partition(".")[0] for name in state}
    assert roots == {"vision_tower", "mm_projector", "llm"}
    assert all(name.startswith("vision_tower.vision_model.") for name in state if "tower" in name)


@pytest.mark.usefixtures("bare_names")
def test_saved_again_and_loaded(tmp_path):
    state = own_state()
    published = {
        published_name(name, LAYERS["layers"], prefixed=False): value
        for name, value in state.items()
    }
    model = NVILAForConditionalGeneration.from_pretrained(write(tmp_path / "one", published))
    model.save_pretrained(tmp_path / "two")
    again = NVILAForConditionalGeneration.from_pretrained(tmp_path / "two")
    assert all(value.equal(state[name]) for name, value in again.state_dict().items())
    saved = load_file(tmp_path / "two" / "model.safetensors")
    assert len(saved) == len(state)
    inputs = make_processor()(text="<vila/video> word1", videos=make_frames())
    assert again.generate(**inputs, max_new_tokens=2).shape[1] > 2


MISSING = [
    "mm_projector.4.weight",
    "vision_tower.vision_model.embeddings.position_embedding.weight",
    "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
    "llm.model.layers.0.mlp.up_proj.weight",
    "llm.lm_head.weight",
]


@pytest.mark.parametrize("name", MISSING)
def test_missing_weights_are_named(name, tmp_path):
    state = own_state()
    del state[name]
    with pytest.raises(CheckpointError, match=re.escape(name)):
        NVILAForConditionalGeneration.from_pretrained(write(tmp_path / "model", state))


def test_a_whole_part_is_missing(tmp_path):
    for root in ("vision_tower", "mm_projector", "llm"):
        state = {name: value for name, value in own_state().items() if not name.startswith(root)}
        with pytest.raises(CheckpointError, match=root):
            NVILAForConditionalGeneration.from_pretrained(write(tmp_path / root, state))


def test_weights_of_another_shape_are_named(tmp_path):
    for name in ("mm_projector.1.weight", "llm.model.norm.weight"):
        state = own_state()
        state[name] = torch.zeros(3, *state[name].shape[1:])
        with pytest.raises(CheckpointError, match=re.escape(name)):
            NVILAForConditionalGeneration.from_pretrained(write(tmp_path / name, state))


def test_a_projector_of_other_layers(tmp_path):
    state = own_state()
    state |= {"mm_projector.8.weight": torch.zeros(2, 2), "mm_projector.8.bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"mm_projector\.8"):
        NVILAForConditionalGeneration.from_pretrained(write(tmp_path / "model", state))


def test_folders_without_a_model(tmp_path):
    with pytest.raises(CheckpointError):
        AutoGazeMLLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        AutoGazeMLLM.from_pretrained(tmp_path / "none")
    state = own_state()
    folder = write(tmp_path / "damaged", state)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        NVILAForConditionalGeneration.from_pretrained(folder)
