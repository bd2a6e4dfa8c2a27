"""Configurations in the forms that checkpoints have them."""

import json

import pytest
import torch

from autogaze.errors import CheckpointError, GeometryError
from autogaze.models.autogaze import AutoGaze
from autogaze.models.autogaze.configuration import GazeDecoderConfig
from autogaze.models.autogaze.decoder import rope_frequencies
from tests.models.autogaze.tiny import tiny_config, tiny_model


def test_rope_in_the_words_of_either_transformers():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    new = {"rope_parameters": {**scaling, "rope_theta": 500000.0}}
    old = {"rope_theta": 500000.0, "rope_scaling": scaling}
    first, second = (
        rope_frequencies(GazeDecoderConfig(**words), torch.device("cpu")) for words in (new, old)
    )
    assert first.equal(second)


def test_decode_positions_are_kept(tmp_path):
    tiny_model(decode_positions="sequential").save_pretrained(tmp_path)
    assert AutoGaze.from_pretrained(tmp_path).config.decode_positions == "sequential"
    with pytest.raises(CheckpointError, match="'other'"):
        tiny_config(decode_positions="other")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scales", "32+100", "100.*16"),
        ("scales", "32+48+64", "num_vision_tokens_each_frame.*20.*29"),
        ("num_vision_tokens_each_frame", 21, "21.*20"),
    ],
)
def test_a_configuration_that_does_not_add_up_is_refused(tmp_path, key, value, words):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GeometryError, match=words):
        AutoGaze.from_pretrained(tmp_path)
