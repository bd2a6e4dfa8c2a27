"""Weights that are not there: nothing is filled in at random."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from autogaze import Gaze, GazedVisionModel, PatchPyramid, gazed
from autogaze.errors import EncoderError
from tests.vision_encoders.families import FAMILIES, SMALL, assert_close, random_frames

VIT = {"image_size": 64, "patch_size": 16, **SMALL}


def without(folder: Path, *parts: str) -> None:
    """Take the weights out of a checkpoint whose names contain one of `parts`."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {name: w for name, w in weights.items() if not any(part in name for part in parts)}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


def test_where_no_pooler_was_saved_there_is_none(tmp_path):
    encoder = gazed(tf.ViTForImageClassification(tf.ViTConfig(**VIT)).eval())
    encoder.save_pretrained(tmp_path)
    again = GazedVisionModel.from_pretrained(tmp_path)
    inputs = random_frames(1, 2), Gaze.everything(PatchPyramid((64,), 16), 1, 2)
    with torch.no_grad():
        assert encoder(*inputs).pooler_output is None
        found = again(*inputs)
        assert found.pooler_output is None
        assert_close(found.last_hidden_state, encoder(*inputs).last_hidden_state)


def test_a_pooler_that_was_saved_is_kept(tmp_path):
    model = tf.ViTModel(tf.ViTConfig(**VIT))
    model.save_pretrained(tmp_path)
    found = GazedVisionModel.from_pretrained(tmp_path).model
    assert found.pooler.dense.weight.equal(model.pooler.dense.weight)
    without(tmp_path, "pooler.dense.bias")
    with pytest.raises(EncoderError, match=r"1 missing \(pooler\.dense\.bias\)"):
        GazedVisionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("siglip", "layers.0.mlp.fc2.weight"),
        ("vit", "layer.0.output.dense.weight"),  # as files name it; transformers 5 does not
        ("dinov2", "layer.0.mlp.fc2.weight"),
    ],
)
def test_missing_weights_are_named(name, part, tmp_path):
    FAMILIES[name].model().save_pretrained(tmp_path)
    without(tmp_path, part)
    with pytest.raises(
        EncoderError, match=rf"{tmp_path}: .*1 missing \(\S*layers?\.0\.\S*weight\)"
    ):
        GazedVisionModel.from_pretrained(tmp_path)


def test_a_mask_token_is_not_missed(tmp_path):
    model = FAMILIES["dinov2"].model()
    model.save_pretrained(tmp_path)
    without(tmp_path, "mask_token")
    GazedVisionModel.from_pretrained(tmp_path)


def test_weights_of_other_shapes_are_named(tmp_path):
    FAMILIES["siglip"].model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "intermediate_size": 40}))
    # transformers 4 does not tell the shapes.
    shapes = r" \(\d+,\) instead of \(40,\)" if tf.__version__ >= "5" else ""
    with pytest.raises(EncoderError, match=rf"mlp\.fc1\.bias{shapes}[,)]"):
        GazedVisionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["siglip", "dinov2", "vit"])
def test_an_error_names_the_prefix_of_a_wrapper_and_what_to_do(name, tmp_path):
    model = FAMILIES[name].model()
    model.save_pretrained(tmp_path)
    wrap(tmp_path, "module.")
    with pytest.raises(EncoderError, match=r"begin with 'module\.'.*key_mapping"):
        GazedVisionModel.from_pretrained(tmp_path)
    again = GazedVisionModel.from_pretrained(tmp_path, key_mapping={r"^module\.": ""})
    for key, value in model.state_dict().items():
        assert again.model.state_dict()[key].equal(value)


def wrap(folder: Path, prefix: str) -> None:
    file = folder / "model.safetensors"
    save_file({prefix + k: v for k, v in load_file(file).items()}, file, {"format": "pt"})
