"""Configurations in the forms that checkpoints have them."""

import json

import jaxtyping
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModel

from autogaze.errors import CheckpointError, GeometryError
from autogaze.models.autogaze import AutoGaze
from autogaze.models.autogaze.configuration import GazeDecoderConfig
from autogaze.models.autogaze.decoder import rope_frequencies
from tests.models.autogaze.tiny import tiny_config, tiny_model, tiny_video


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


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("scales", "32", "num_vision_tokens_each_frame is 20"),
        ("max_num_frames", "many", "max_num_frames.*'many'"),
        ("has_task_loss_requirement_during_inference", "yes", "'yes'"),
        ("gazing_ratio_config", 0.5, "gazing_ratio_config.*0.5"),
        ("gaze_model_config", {"input_img_size": 96}, "96-pixel"),
    ],
)
def test_options_of_from_pretrained_are_checked(tmp_path, option, value, words):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        AutoGaze.from_pretrained(tmp_path, **{option: value})


def test_an_option_is_not_reported_as_a_fault_of_the_folder_nor_the_other_way_round(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"^max_num_frames"):
        AutoGaze.from_pretrained(tmp_path, max_num_frames=0)
    config = json.loads((tmp_path / "config.json").read_text())
    config["max_num_frames"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be loaded: max_num_frames"):
        AutoGaze.from_pretrained(tmp_path, attn_mode="sdpa")


def test_options_of_from_pretrained_count(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    ratios = {"sample_strategy_during_inference": "fixed", "fixed": {"gazing_ratio": 0.2}}
    model = AutoGaze.from_pretrained(tmp_path, gazing_ratio_config=ratios, max_num_frames=4).eval()
    assert model.config.max_num_frames == 4
    assert model({"video": tiny_video(1, 2)}).gaze.lengths.tolist() == [[4, 4]]


@pytest.mark.parametrize("later", [False, True])
def test_groups_of_options_may_be_hydras(tmp_path, later):
    groups = {
        "gazing_ratio_config": {
            "sample_strategy_during_inference": "fixed",
            "fixed": {"gazing_ratio": 0.2},
        },
        "gazing_ratio_each_frame_config": {
            "sample_strategy_during_inference": "dirichlet",
            "dirichlet": {"alpha": [1e6, 1e6]},
        },
    }
    made = {name: OmegaConf.create(group) for name, group in groups.items()}
    model = tiny_model(**({} if later else made))
    if later:
        for name, group in made.items():
            setattr(model.config, name, group)
    else:
        model.save_pretrained(tmp_path)
        model = AutoGaze.from_pretrained(tmp_path).eval()
    lengths = model({"video": tiny_video(1, 2)}).gaze.lengths
    assert (lengths - 4).abs().max() <= 1
    parts = OmegaConf.create(tiny_config().gaze_model_config.to_dict())
    config = tiny_config()
    again = type(config)(
        scales="32+64", num_vision_tokens_each_frame=20, gaze_model_config=parts
    ).to_dict()
    assert again["gaze_model_config"] == config.to_dict()["gaze_model_config"]


@pytest.mark.parametrize(
    "group",
    ["gazing_ratio_config", "gazing_ratio_each_frame_config", "task_loss_requirement_config"],
)
def test_a_group_that_is_none_any_more_is_named(group):
    model = tiny_model(has_task_loss_requirement_during_inference=True)
    setattr(model.config, group, None)
    with pytest.raises(CheckpointError, match=f"{group} must be a group of options"):
        model({"video": tiny_video(1, 2)})


@pytest.mark.parametrize("place", ["argument", "config.json", "from_config"])
def test_every_attention_implementation_is_accepted(tmp_path, place):
    model, video = tiny_model(), tiny_video(1, 2)
    model.save_pretrained(tmp_path)
    wanted = {"attn_implementation": "flash_attention_2"}
    if place == "from_config":
        assert isinstance(AutoModel.from_config(tiny_config(), **wanted), AutoGaze)
        return
    if place == "config.json":
        config = json.loads((tmp_path / "config.json").read_text())
        config["_attn_implementation"] = wanted.pop("attn_implementation")
        (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoGaze.from_pretrained(tmp_path, **wanted).eval()
    assert loaded({"video": video}, gazing_ratio=0.3).gaze.ids.equal(
        model({"video": video}, gazing_ratio=0.3).gaze.ids
    )


def test_a_file_is_no_folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: is a file; give the folder"):
        AutoGaze.from_pretrained(tmp_path / "config.json")


@pytest.fixture
def as_users():
    """Without the suite's own check of annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("config", [None, {}])
def test_what_is_no_configuration_is_named_by_transformers(config):
    with pytest.raises((TypeError, ValueError), match=r"Parameter config in .AutoGaze"):
        AutoGaze(config)
