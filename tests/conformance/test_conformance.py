"""Decoding, scoring, losses, VideoMAE and SigLIP give known numbers."""

from functools import cache

import pytest
import torch
import transformers
from torch import nn

from autogaze import Gaze, gazed
from autogaze.algorithms.grpo import grpo_loss
from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.models.autogaze import AutoGaze, AutoGazeConfig, AutoGazeImageProcessor
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.vision_encoders.siglip import SiglipVisionConfig, SiglipVisionModel
from tests.conformance import FROZEN, Numbers, cases_of, load_numbers
from tests.conformance.make import GAZE, HERE, KINDS, stream

RELEASED_GAZES = ["gaze-tiny-a", "gaze-tiny-b", "gaze-tiny-gqa", "gaze-full"]
GAZES = [*(FROZEN + name for name in GAZE), *RELEASED_GAZES]

load_once = cache(load_numbers)


@cache
def selector(name: str) -> AutoGaze:
    numbers = load_once(name)
    model = AutoGaze(AutoGazeConfig(**numbers.config)).eval()
    model.load_state_dict(numbers.part("weights."))
    return model


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in GAZES for case in cases_of(name) if case != "streaming"],
)
def test_gazes_and_scores(name, case):
    numbers = load_once(name)
    expected = numbers.part(f"{case}.")
    video = expected.get("video", numbers.tensors["video"]).float()
    with torch.inference_mode():
        output = selector(name)({"video": video}, **numbers.call(case))
        real = ~expected["if_padded_gazing"]
        counts = output["num_gazing_each_frame"].tolist()
        assert counts == expected["num_gazing_each_frame"].tolist()
        assert output["if_padded_gazing"].equal(~real)
        assert output["gazing_pos"][real].equal(expected["gazing_pos"][real])
        for level, mask in enumerate(output["gazing_mask"]):
            assert mask.equal(expected[f"gazing_mask.{level}"])
        for key in {"log_action_probs", "task_loss_prediction"} & set(expected):
            torch.testing.assert_close(output[key][real], expected[key][real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GAZES)
def test_streaming_through_the_known_caches(name):
    numbers = load_once(name)
    expected = numbers.part("streaming.")
    with torch.inference_mode():
        found = stream(selector(name), numbers.tensors["video"][:1], **numbers.call("streaming"))
    real = ~expected["if_padded_gazing"]
    assert found["num_gazing_each_frame"].equal(expected["num_gazing_each_frame"])
    assert found["if_padded_gazing"].equal(~real)
    assert found["gazing_pos"][real].equal(expected["gazing_pos"][real])


@pytest.mark.parametrize("name", [FROZEN + "gaze", "gaze-tiny-a"])
def test_checkpoint_folders_load(name, tmp_path):
    model = selector(name)
    model.save_pretrained(tmp_path)
    again = AutoGaze.from_pretrained(tmp_path).eval()
    weights = again.state_dict()
    expected = load_once(name).part("weights.")
    assert set(weights) == set(expected)
    assert all(weights[key].equal(value) for key, value in expected.items())


@pytest.mark.parametrize("mode", ["shortest_edge", "square"])
@pytest.mark.parametrize(
    ("name", "index"),
    [(FROZEN + "processor", 0), ("processor", 0), ("processor", 1), ("processor", 2)],
)
def test_preprocessing(name, index, mode):
    tensors = load_once(name).tensors
    expected = tensors[f"{index}.{mode}"]
    side = min(expected.shape[-2:])
    size = {"shortest_edge": side} if mode == "shortest_edge" else {"height": side, "width": side}
    frames = list(tensors[f"{index}.frames"].numpy())
    values = AutoGazeImageProcessor(size=size)(frames, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(values, expected[None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["ntp", "grpo"])
@pytest.mark.parametrize("name", [FROZEN + "algorithms", "algorithms"])
def test_losses_and_gradients(name, algorithm):
    numbers = load_once(name)
    given, expected = numbers.part("in."), numbers.part(f"{algorithm}.")
    rollout = Rollout(
        given["log_action_probs"].clone().requires_grad_(),
        given["if_padded_gazing"],
        given["task_loss_prediction"].clone().requires_grad_(),
        given["task_losses"],
        given["task_losses_mask"].bool(),
    )
    if algorithm == "ntp":
        loss = ntp_loss(rollout)
    else:
        names = ("group_size", "discount_factor", "optimize_task_loss_prediction")
        options = {name: numbers.config[name] for name in names}
        ends = given["traj_len_each_reward"].tolist()
        loss = grpo_loss(rollout, given["reward"], ends, **options)
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(loss.mean(), [rollout.log_probs, rollout.predicted_losses])
    for gradient, key in zip(gradients, ("log_action_probs", "task_loss_prediction"), strict=True):
        torch.testing.assert_close(gradient, expected[f"grad_{key}"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [FROZEN + "video-mae", "video-mae"])
def test_video_mae(name):
    numbers = load_once(name)
    model = VideoMAE(VideoMAEConfig.of(numbers.config)).eval()
    model.load_state_dict(numbers.part("weights."))
    gaze = Gaze.from_padded(numbers.part("gaze."), model.config.pyramid)
    frames = numbers.tensors["frame_idx_to_reconstruct"].tolist()
    with torch.no_grad():
        found = model(numbers.tensors["video"], gaze, frames)
    expected = numbers.tensors["reconstruction"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    losses = (found - numbers.tensors["video"][:, frames]).abs().flatten(2).mean(-1)
    torch.testing.assert_close(losses, numbers.tensors["loss_each_reconstruction_frame"])


SIGLIPS = [FROZEN + "siglip", "siglip", "siglip-patch14"]


def siglip_options(numbers: Numbers) -> dict:
    return {key: value for key, value in numbers.config.items() if key != "note"}


def assert_close(found, expected) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SIGLIPS)
def test_siglip(name, kind):
    numbers = load_once(name)
    options = siglip_options(numbers)
    config = SiglipVisionConfig(**options, frame_independent_encoding=KINDS[kind])
    model = SiglipVisionModel(config).eval()
    weights, gaze = numbers.part("weights."), numbers.part("gaze.")
    assert all(key.startswith("vision_model.") for key in weights)
    model.load_state_dict(weights)
    with torch.no_grad():
        out = model(numbers.tensors["video"], gazing_info=gaze, output_hidden_states=True)
    real = ~gaze["if_padded_gazing"]
    assert real.any()
    assert not real.all()
    expected = numbers.part(f"{kind}.")
    assert out.last_hidden_state.shape == expected["last_hidden_state"].shape
    assert_close(out.last_hidden_state[real], expected["last_hidden_state"][real])
    assert_close(out.hidden_states[1][real], expected["hidden_states.1"][real])
    assert len(out.hidden_states) == config.num_hidden_layers + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SIGLIPS)
def test_gazed_siglip(name, kind):
    """The plain transformers model, gazed, gives the same features."""
    numbers = load_once(name)
    options = siglip_options(numbers)
    scales = options.pop("scales")
    plain = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**options)).eval()
    body: nn.Module = getattr(plain, "vision_model", plain)
    body.load_state_dict(numbers.part("weights.vision_model."))
    gaze = numbers.part("gaze.")
    with torch.no_grad():
        out = gazed(plain, scales=scales, attn_type=kind)(numbers.tensors["video"], gaze)
    expected = numbers.tensors[f"{kind}.last_hidden_state"][~gaze["if_padded_gazing"]]
    assert_close(out.last_hidden_state, expected)


def test_what_is_frozen_is_small():
    """300 kB at most: it travels with every checkout."""
    size = sum(file.stat().st_size for file in HERE.glob("frozen.*"))
    assert size <= 300_000
