"""AutoGaze as transformers has models: checkpoints, copies, the known call."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from autogaze.errors import CheckpointError
from autogaze.models.autogaze import AutoGaze, AutoGazeConfig, AutoGazeImageProcessor
from tests.auto_classes import auto_image_processor
from tests.models.autogaze.tiny import tiny_model, tiny_video


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    AutoGazeImageProcessor(size=64).save_pretrained(tmp_path)
    return model, tmp_path


def test_saving_and_loading_through_all_classes(saved):
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
    processor = auto_image_processor().from_pretrained(folder)
    assert type(processor).__name__ == "AutoGazeImageProcessor"
    assert processor.size == {"shortest_edge": 64}


def test_the_default_has_the_published_size():
    model = AutoGaze(AutoGazeConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_258_240


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
    with pytest.raises(
        CheckpointError, match=rf"1 {change} \({name}" if change != "mismatched" else name
    ):
        AutoGaze.from_pretrained(folder)


def test_a_model_that_has_gazed_can_be_copied():
    model, video = tiny_model(), tiny_video(1, 2)
    expected = model.generate(video, caps=[9, 9]).to_gaze().ids
    assert copy.deepcopy(model).generate(video, caps=[9, 9]).to_gaze().ids.equal(expected)


def test_a_call_without_settings_uses_the_configs(saved):
    model, _ = saved
    output = model({"video": tiny_video(1, 2)})
    assert output.gaze.lengths.tolist() == [[10, 10]]  # fixed ratio 0.5 of 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"inputs": {"frames": torch.zeros(1)}}, "video"),
        ({"inputs": {"video": torch.zeros(2, 3, 64, 64)}}, r"got \(2, 3, 64, 64\)"),
        ({"inputs": {"video": torch.zeros(1, 0, 3, 64, 64)}}, r"got \(1, 0, 3, 64, 64\)"),
        ({"inputs": {"video": torch.zeros(1, 1, 3, 64, 64).byte()}}, "uint8"),
        ({"inputs": {"video": torch.full((1, 1, 3, 64, 64), torch.nan)}}, "NaN"),
        ({"gazing_ratio": -0.5}, "-0.5"),
        ({"gazing_ratio": [0.5, float("nan")]}, "nan"),
        ({"gazing_ratio": "0.5"}, "'0.5'"),
        ({"gazing_ratio": True}, "True"),
        ({"gazing_ratio": []}, r"\[\]"),
        ({"gazing_ratio": torch.full((2, 2), 0.5)}, "gazing_ratio"),
        ({"gazing_ratio": [0.5]}, "1 ratio"),
        ({"task_loss_requirement": torch.zeros(2)}, r"\(1, 2\), got \(2,\)"),
        ({"task_loss_requirement": torch.zeros(3, 2)}, r"\(1, 2\), got \(3, 2\)"),
        ({"task_loss_requirement": "low"}, "'low'"),
        ({"task_loss_requirement": float("nan")}, "nan"),
        ({"gazing_info": 0.5}, "float.*gazing_ratio"),
        ({"target_scales": [64, 128]}, r"\[64, 128\] and None"),
        ({"target_scales": [128], "target_patch_size": 16}, r"\(128,\).*\(32, 64\)"),
        ({"target_scales": [64, 128], "target_patch_size": 16}, "128 x 128 pixels, got 64 x 64"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, words):
    call = {"inputs": {"video": tiny_video(1, 2)}, "gazing_ratio": 0.5, **call}
    with pytest.raises(ValueError, match=words):
        tiny_model()(**call)
