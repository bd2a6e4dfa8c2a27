"""Checkpoints and configurations in the form users have them."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from autogaze.errors import CheckpointError, GeometryError
from autogaze.models.autogaze import AutoGaze, AutoGazeConfig, AutoGazeImageProcessor
from autogaze.models.autogaze.limits import draw_settings
from tests.models.tiny import tiny_config, tiny_model, tiny_video


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    AutoGazeImageProcessor(size=64).save_pretrained(tmp_path)
    return model, tmp_path


def test_saving_and_loading_through_every_door(saved):
    model, folder = saved
    video = tiny_video(1, 2)
    expected = model.generate(video, caps=[9, 9]).to_gaze().ids
    for kind in (AutoGaze, AutoModel):
        loaded = kind.from_pretrained(folder).eval()
        assert isinstance(loaded, AutoGaze)
        assert loaded.generate(video, caps=[9, 9]).to_gaze().ids.equal(expected)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, AutoGazeConfig)
    assert config.pyramid == model.pyramid
    assert config.gaze_model_config.gaze_decoder_config.num_multi_token_pred == 4
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "AutoGazeImageProcessor"
    assert processor.size == {"shortest_edge": 64}


def test_the_default_has_the_published_size():
    model = AutoGaze(AutoGazeConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_258_240


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
    decoders = [
        AutoGaze(
            tiny_config().__class__(gaze_model_config={"gaze_decoder_config": words})
        ).gazing_model.gaze_decoder
        for words in (new, old)
    ]
    assert decoders[0].frequencies().equal(decoders[1].frequencies())


def test_decode_positions_are_kept(tmp_path):
    tiny_model(decode_positions="sequential").save_pretrained(tmp_path)
    assert AutoGaze.from_pretrained(tmp_path).config.decode_positions == "sequential"
    with pytest.raises(CheckpointError, match="'as_released' or 'sequential', got 'other'"):
        tiny_config(decode_positions="other")


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_a_checkpoint_that_does_not_fit_is_refused(saved, change):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    name = "gazing_model.connector.pos_embed"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "gazing_model.extra.weight"
        weights[name] = torch.zeros(2)
    else:
        weights[name] = torch.zeros(3, 48)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{change} parameters: .*{name}"):
        AutoGaze.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scales", "32+100", "100 is not divisible by the patch size 16"),
        ("scales", "32+48+64", "num_vision_tokens_each_frame is 20.*make it 29"),
        ("num_vision_tokens_each_frame", 21, "make it 20"),
    ],
)
def test_a_configuration_that_does_not_add_up_is_refused(saved, key, value, words):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(GeometryError, match=words):
        AutoGaze.from_pretrained(folder)


def draws(**options):
    generator = torch.Generator().manual_seed(0)
    config = tiny_config(**options)
    return [draw_settings(config, 4, training=True, generator=generator) for _ in range(300)]


def test_settings_are_drawn_as_the_config_says():
    ratios = {
        "sample_strategy_during_training": "exponential",
        "exponential": {"gazing_ratio_min": 0.02, "gazing_ratio_max": 0.5, "lambda": 10},
    }
    drawn = [draw.ratio for draw in draws(gazing_ratio_config=ratios)]
    assert min(drawn) >= 0.02
    assert max(drawn) <= 0.5
    assert sum(drawn) / 300 == pytest.approx(0.116, abs=0.015)  # mean of the cut exponential
    spread = {"sample_strategy_during_training": "dirichlet", "dirichlet": {"alpha": 3.0}}
    frames = [draw.ratio for draw in draws(gazing_ratio_each_frame_config=spread)]
    assert all(len(ratio) == 4 and min(ratio) >= 0 and max(ratio) <= 1 for ratio in frames)
    assert len({tuple(ratio) for ratio in frames}) == 300
    losses = {
        "sample_strategy_during_training": "uniform",
        "uniform": {"task_loss_requirement_min": 0.5, "task_loss_requirement_max": 1.0},
    }
    drawn = draws(
        task_loss_requirement_config=losses, has_task_loss_requirement_during_training=True
    )
    assert all(0.5 <= draw.threshold <= 1 for draw in drawn)
    assert sum(draw.threshold for draw in drawn) / 300 == pytest.approx(0.75, abs=0.03)
    unknown = {"sample_strategy_during_training": "never heard of"}
    with pytest.raises(CheckpointError, match="unknown strategy 'never heard of'"):
        draws(gazing_ratio_config=unknown)


def test_a_call_without_settings_uses_the_configs(saved):
    model, _ = saved
    output = model({"video": tiny_video(1, 2)})
    assert output.gaze.lengths.tolist() == [[10, 10]]  # fixed ratio 0.5 of 20


def test_a_model_that_has_gazed_can_be_copied():
    model, video = tiny_model(), tiny_video(1, 2)
    expected = model.generate(video, caps=[9, 9]).to_gaze().ids
    assert copy.deepcopy(model).generate(video, caps=[9, 9]).to_gaze().ids.equal(expected)


def test_other_precisions_gaze_too():
    video = tiny_video(1, 2)
    expected = tiny_model().generate(video, caps=[9, 9]).to_gaze().ids
    double = tiny_model().double().generate(video.double(), caps=[9, 9]).to_gaze().ids
    assert double.equal(expected)
    half = tiny_model().to(torch.bfloat16).generate(video, caps=[9, 9]).to_gaze()
    assert half.lengths.tolist() == [[9, 9]]
