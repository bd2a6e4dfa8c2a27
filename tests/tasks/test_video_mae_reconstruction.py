"""`VideoMAEReconstruction` as AutoGaze's users construct, load and call it."""

import json
from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from autogaze import Gaze, PatchPyramid
from autogaze.datasets.video_utils import transform_video_for_pytorch
from autogaze.errors import CheckpointError, GeometryError, TrainingError
from autogaze.reconstruction.video_mae import VideoMAEConfig, save_video_mae
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.utils import UnNormalize
from tests.conformance import FROZEN, load_numbers
from tests.tasks.material import (
    TINY,
    published_names,
    some_clips,
    some_gaze,
    tiny_dinov2,
    tiny_mae,
    tiny_siglip,
)

L1 = {"loss_type": "l1", "loss_weights": "1"}
ALL = {"loss_type": "l1+dinov2_reg+siglip2", "loss_weights": "1+0.3+0.3"}
load_once = cache(load_numbers)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A VideoMAE, and the networks of losses, in folders."""
    folder = tmp_path_factory.mktemp("models")
    save_video_mae(tiny_mae(), folder / "mae")
    tiny_dinov2().save_pretrained(folder / "dinov2")
    tiny_siglip().save_pretrained(folder / "siglip")
    return folder


def make(folders, rate=1.0, **config):
    given = OmegaConf.create({**L1, **config})
    return VideoMAEReconstruction(
        recon_model=str(folders / "mae"), recon_model_config=given, scales="16+32",
        recon_sample_rate=rate, attn_mode="sdpa",
    ).eval()  # fmt: skip


def networks(folders):
    return {
        **ALL,
        "dinov2_reg_loss_config": {"model": str(folders / "dinov2"), "revision": None},
        "siglip2_loss_config": {"model": str(folders / "siglip")},
        "l1_loss_config": None,
        **dict.fromkeys(("scale_embed", "time_embed", "causal"), True),
    }


def case():
    """Pixels of some clips as ImageNet's statistics normalise them, RGB, and a gaze."""
    rgb, gaze = some_clips(), some_gaze(TINY.pyramid)
    return VideoMAETask.statistics.normalise(rgb), rgb, gaze


@pytest.mark.parametrize("name", [FROZEN + "video-mae", "video-mae"])
def test_known_numbers(name, tmp_path):
    numbers = load_once(name)
    config = VideoMAEConfig.of(numbers.config)
    mae = tiny_mae(config=config)
    mae.load_state_dict(numbers.part("weights."))
    save_video_mae(mae, tmp_path)
    task = VideoMAEReconstruction(str(tmp_path), L1, config.scales, 1, "eager").eval()
    tensors, gaze = numbers.tensors, numbers.part("gaze.")
    frames = tensors["frame_idx_to_reconstruct"]
    with torch.no_grad():
        found = task.forward_output({"video_for_task": tensors["video"]}, gaze, frames)
    each = found["reconstruction_loss_each_reconstruction_frame"]
    torch.testing.assert_close(
        found["reconstruction"], tensors["reconstruction"], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(each, tensors["loss_each_reconstruction_frame"])
    wanted = tensors.get("loss_mean", each.mean(1))
    torch.testing.assert_close(found["reconstruction_loss"], wanted)
    assert found["frame_idx_to_reconstruct"].equal(frames)


def test_what_a_call_returns(folders):
    task = make(folders, rate=0.5)
    video, _, gaze = case()
    padded = gaze.padded()
    torch.manual_seed(3)
    found = task({"video": video, "video_for_task": video}, padded)
    assert list(found) == [
        "outputs", "loss", "reward", "traj_len_each_reward", "task_losses", "task_losses_mask",
        "metrics",
    ]  # fmt: skip
    frames = found["outputs"]["frame_idx_to_reconstruct"].tolist()
    assert len(frames) == 2
    wanted = (task.mae(video, gaze, frames) - video[:, frames]).abs().mean((2, 3, 4))
    torch.testing.assert_close(found["reward"], -wanted)
    torch.testing.assert_close(found["loss"], wanted.mean(1))
    assert found["loss"].requires_grad
    assert not found["reward"].requires_grad
    slots = padded["num_gazing_each_frame"].tolist()
    assert found["traj_len_each_reward"].tolist() == [sum(slots[: f + 1]) for f in frames]
    counts = found["outputs"]["num_non_padded_gazing_at_each_reconstruction_frame"]
    assert counts.equal(gaze.lengths[:, frames])
    ends = found["task_losses_mask"].bool() & ~padded["if_padded_gazing"]
    for frame, part, losses in zip(
        range(4), ends.split(slots, 1), found["task_losses"].split(slots, 1), strict=True
    ):
        for clip in range(2):
            marked = part[clip].nonzero().flatten().tolist()
            assert marked == ([int(gaze.lengths[clip, frame]) - 1] if frame in frames else [])
            for slot in marked:
                torch.testing.assert_close(losses[clip, slot], wanted[clip, frames.index(frame)])
    metrics = found["metrics"]
    torch.testing.assert_close(metrics["reconstruction_loss"], wanted.mean())
    assert float(metrics["avg_gazing_ratio_per_frame"]) == pytest.approx(gaze.num_patches / 160)
    assert task.gaze_model_kwargs == {"target_scales": [16, 32], "target_patch_size": 8}


def test_losses_are_those_of_the_packages_own_task(folders):
    task = make(folders, **networks(folders))
    own = VideoMAETask.from_checkpoint(
        folders / "mae", **ALL,
        loss_networks={"dinov2_reg": str(folders / "dinov2"), "siglip2": str(folders / "siglip")},
    )  # fmt: skip
    video, rgb, gaze = case()
    with torch.no_grad():
        found = task.forward_output({"video_for_task": video}, gaze.padded(), [2, 0])
        wanted = own(rgb, gaze, [2, 0])
    each = found["reconstruction_loss_each_reconstruction_frame"]
    torch.testing.assert_close(each, wanted.losses, rtol=1e-4, atol=1e-5)
    shown = UnNormalize(found["image_mean"], found["image_std"], found["rescale_factor"])
    torch.testing.assert_close(
        shown(found["reconstruction"]), wanted.reconstruction, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("names", ["own", "published", "wrapped"])
def test_a_published_state_dict_loads(names, folders):
    source = make(folders, **networks(folders))
    state = source.state_dict()
    if names != "own":
        dinov2 = published_names(tiny_dinov2().state_dict())
        siglip = {
            f"vision_model.{k.removeprefix('vision_model.')}": v
            for k, v in tiny_siglip().state_dict().items()
        }
        state = {k: v for k, v in state.items() if k.startswith(("mae.vit.", "mae.decoder."))}
        state |= {f"mae.dinov2_reg.{k}": v for k, v in dinov2.items()}
        state |= {f"mae.siglip2.{k}": v for k, v in siglip.items()}
    task = make(folders, **networks(folders))
    for parameter in task.parameters():
        parameter.data += 1
    if names == "wrapped":
        whole = torch.nn.ModuleDict({"module": task})
        found = whole.load_state_dict({f"module.{k}": v for k, v in state.items()}, strict=False)
    else:
        found = task.load_state_dict(OrderedDict(state), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    video, _, gaze = case()
    inputs = {"video_for_task": video}
    with torch.no_grad():
        losses = [x.forward_output(inputs, gaze.padded(), [1, 3]) for x in (task, source)]
    one, other = [x["reconstruction_loss_each_reconstruction_frame"] for x in losses]
    assert one.equal(other)


def test_parameters_that_do_not_fit_are_reported(folders):
    task = make(folders)
    state = task.state_dict()
    assert all(name.startswith(("mae.vit.", "mae.decoder.")) for name in state)
    del state["mae.decoder.mask_token"]
    found = task.load_state_dict({**state, "mae.head.weight": torch.ones(1)}, strict=False)
    assert found.missing_keys == ["mae.decoder.mask_token"]
    assert found.unexpected_keys == ["mae.head.weight"]
    with pytest.raises(RuntimeError, match="mask_token"):
        task.load_state_dict(state)


def test_loss_networks_stay_frozen_and_in_evaluation(folders):
    task = make(folders, **networks(folders)).train()
    trained = {name.split(".")[1] for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {"vit", "decoder"}
    assert task.mae.training
    assert not task.mae.dinov2_reg.training
    assert not task.mae.siglip2.training


@pytest.mark.parametrize("saved", [{}, {"rescale_factor": 1 / 127.5}, {"offset": False}])
def test_frames_are_made_by_the_checkpoints_image_processor(saved, folders, tmp_path):
    save_video_mae(tiny_mae(), tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    settings = {"do_normalize": True, "image_mean": mean, "image_std": std, "size": 224, **saved}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    task = VideoMAEReconstruction(tmp_path, networks(folders), "16+32", 1)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    video = transform_video_for_pytorch(frames, task.transform)
    assert video.shape == (2, 3, 32, 32)
    flat = transform_video_for_pytorch(np.full((1, 40, 60, 3), 90, np.uint8), task.transform)
    factor = saved.get("rescale_factor", 1 / 127.5)
    wanted = (90 * factor - saved.get("offset", True) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(flat[0, :, 3, 3], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(task._rgb(flat[None]), torch.full((1, 1, 3, 32, 32), 90 / 255))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"causal": False}, "causal"),
        ({"revision": "main"}, "revision"),
        ({"dinov2_reg_loss_config": {"model": "x", "revision": "y"}}, "revision"),
        ({"siglip2_loss_config": "x"}, "siglip2_loss_config"),
        ({"hidden_sise": 3}, "hidden_sise"),
        ({"loss_type": "l3"}, "l3"),
        ({"loss_weights": "1+1"}, "weights"),
    ],
)
def test_options_that_do_not_fit(config, named, folders):
    with pytest.raises(TrainingError, match=named):
        make(folders, **config)


def test_checkpoints_and_gazes_that_do_not_fit(folders, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        VideoMAEReconstruction(tmp_path / "nowhere", L1, "16+32", 1, "sdpa")
    save_video_mae(tiny_mae(), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="preprocessor_config"):
        VideoMAEReconstruction(tmp_path, L1, "16+32")
    other = Gaze.everything(PatchPyramid((16, 64), 8), 2, 4).padded()
    video, _, _ = case()
    with pytest.raises(GeometryError):
        make(folders)({"video_for_task": video}, other)


def test_the_former_constructor_warns(folders):
    with pytest.warns(DeprecationWarning, match="VideoMAETask"):
        task = VideoMAEReconstruction.from_checkpoint(
            folders / "mae", loss_type="l1", loss_weights=1
        )
    assert isinstance(task, VideoMAETask)


def test_a_picture_of_the_reconstructed_frames(folders):
    task = make(folders, rate=0.5)
    video, rgb, gaze = case()
    torch.manual_seed(3)
    found = task({"video_for_task": video}, gaze.padded())
    (method,) = task.visualize_methods
    picture = method({"video_for_task": video}, gaze.padded(), found, None)
    frames = found["outputs"]["frame_idx_to_reconstruct"].tolist()
    shown = (rgb[0, frames[0]].permute(1, 2, 0) * 255).round().byte().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(picture, shown.shape)[:, :, 0]
    difference = np.abs(windows.astype(int) - shown).max((-1, -2, -3))
    assert difference.min() <= 1  # the frame itself is somewhere in it
    drawn = []
    task.visualize_methods = [lambda *parts: drawn.append(parts)]
    task.visualize({"video_for_task": video}, gaze.padded(), found)
    assert len(drawn) == 1
    assert drawn[0][3] is None
    assert method.visualize_step == 1


@pytest.mark.parametrize(
    "form", [torch.Tensor.double, torch.Tensor.half, lambda x: x.mT.clone().mT]
)
def test_pixels_in_other_precisions_and_layouts(form, folders):
    task = make(folders)
    video, _, gaze = case()
    with torch.no_grad():
        found, wanted = (task({"video_for_task": x}, gaze.padded()) for x in (form(video), video))
    torch.testing.assert_close(
        found["reward"].sort(1)[0], wanted["reward"].sort(1)[0], atol=2e-3, rtol=1e-2
    )


def test_gazes_in_other_forms(folders):
    task = make(folders)
    video, _, gaze = case()
    padded = gaze.padded()
    wanted = task({"video_for_task": video}, padded)["metrics"]["avg_gazing_ratio_per_frame"]
    for form in (
        {**padded, "if_padded_gazing": padded["if_padded_gazing"].int()},
        {**padded, "if_padded_gazing": padded["if_padded_gazing"].float()},
        {**padded, "num_gazing_each_frame": padded["num_gazing_each_frame"].tolist()},
        {**padded, "gazing_pos": padded["gazing_pos"].int()},
    ):
        found = task({"video_for_task": video}, form)
        assert found["metrics"]["avg_gazing_ratio_per_frame"].equal(wanted)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        (None, "None"),
        ({}, "an empty dict"),
        ({"video": torch.zeros(2, 4, 3, 32, 32)}, "only video"),
        ({"video_for_task": None}, "video_for_task"),
        ({"video_for_task": np.zeros((2, 4, 3, 32, 32))}, "ndarray"),
        ({"video_for_task": torch.zeros(4, 3, 32, 32)}, r"\(4, 3, 32, 32\)"),
        ({"video_for_task": torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)}, "uint8"),
        ({"video_for_task": torch.zeros(2, 4, 3, 32, 32, device="meta")}, "without values"),
    ],
)
def test_pixels_that_are_not_taken_are_named(inputs, named, folders):
    with pytest.raises(TrainingError, match=f"video_for_task.*{named}"):
        make(folders)(inputs, case()[2].padded())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("frames", [1, [1.0], "a", [True], [[1]]])
def test_frames_that_have_no_number_are_refused(frames, folders):
    video, _, gaze = case()
    with pytest.raises(TrainingError, match="frame_idx_to_reconstruct"):
        make(folders).forward_output({"video_for_task": video}, gaze.padded(), frames)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("gaze", [None, case()[2], {}])
def test_gazes_that_are_no_padded_dict_are_refused(gaze, folders):
    with pytest.raises(GeometryError, match="gazing_pos"):
        make(folders)({"video_for_task": case()[0]}, gaze)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"recon_model": None}, CheckpointError),
        ({"recon_model": 3}, CheckpointError),
        ({"recon_model_config": "l1"}, TrainingError),
        ({"recon_model_config": {"loss_type": ["l1"], "loss_weights": "1"}}, TrainingError),
        ({"recon_sample_rate": "all"}, TrainingError),
        ({"recon_sample_rate": None}, TrainingError),
    ],
)
def test_arguments_of_other_types_are_refused(change, error, folders):
    given = {"recon_model": str(folders / "mae"), "recon_model_config": L1, "scales": "16+32"}
    with pytest.raises(error, match="got"):
        VideoMAEReconstruction(**{**given, **change})
