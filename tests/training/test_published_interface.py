"""Tasks and datasets written for the published package, as its trainer makes and calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import VivitImageProcessor

from autogaze import Gaze, PatchPyramid
from autogaze.datasets import VideoFolder
from autogaze.datasets.clip import ClipKey, UnreadableClip
from autogaze.datasets.plain import PlainClips
from autogaze.datasets.video_utils import transform_video_for_pytorch
from autogaze.errors import TrainingError
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig, save_video_mae
from autogaze.tasks.published import PublishedTask
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.mixture import read_dataset
from autogaze.training.option_names import with_our_names
from tests.clips import make_video
from tests.training.tiny import VIDEO_MAE, tiny_config

HERE = __name__
PYRAMID = PatchPyramid((32, 64))
V = PYRAMID.num_patches


class MeanColour(nn.Module):
    """Predicts the mean colour of frames drawn at random; rewards lie at their ends."""

    def __init__(self, decoder, scales, recon_sample_rate, attn_mode, extra_kwargs=None):
        super().__init__()
        assert attn_mode == "sdpa"
        self.scales = sorted(int(scale) for scale in str(scales).split("+"))
        self.transform = VivitImageProcessor(
            size={"height": self.scales[-1], "width": self.scales[-1]}, do_center_crop=False
        )
        self.head = nn.Linear(1, decoder.outputs)  # options of a group are attributes
        self.recon_sample_rate = recon_sample_rate
        self.gaze_model_kwargs = {
            "target_scales": self.scales,
            "target_patch_size": 16,
            **(extra_kwargs or {}),
        }
        self.calls = []

    def forward(self, inputs, gaze_outputs):
        self.calls.append(inputs)
        video, padded = inputs["video_for_task"], gaze_outputs["if_padded_gazing"]
        slots = gaze_outputs["num_gazing_each_frame"]
        B, T = video.shape[:2]
        frames = torch.randperm(T)[: int(T * self.recon_sample_rate)]
        seen = gaze_outputs["gazing_pos"].float().masked_fill(padded, 0.0).mean(1, keepdim=True)
        wanted = video[:, frames].mean((3, 4))  # (B, F, 3)
        each = (self.head(seen)[:, None] - wanted).abs().mean(2)  # (B, F)
        parts, masks = [], []
        for t, part in enumerate(padded.split(slots.tolist(), 1)):
            judged = t in frames.tolist()
            value = each[:, frames.tolist().index(t)] if judged else each.new_zeros(B)
            parts.append(value[:, None].expand(-1, part.shape[1]))
            masks.append(torch.full(part.shape, float(judged)))
        return {
            "outputs": {"frames": frames},
            "loss": each.mean(1),
            "reward": -each.detach(),
            "traj_len_each_reward": torch.stack([slots[: t + 1].sum() for t in frames]),
            "task_losses": torch.cat(parts, 1),
            "task_losses_mask": torch.cat(masks, 1),
            "metrics": {"colour_loss": each.mean(), "loss": 3.0, "share": (~padded).float().mean()},
        }

    def visualize(self, inputs, gaze_outputs, task_outputs):
        raise AssertionError("pictures are made by the trainer")


class Stills(torch.utils.data.Dataset):
    """Clips of one colour, a video and its path, as the published trainer makes such a dataset."""

    def __init__(
        self,
        split,
        gt_gazing_pos_paths,
        train_data_aug,
        gaze_transform=None,
        task_transform=None,
        clip_len=16,
        frame_sample_rate=1,
    ):
        assert train_data_aug.aug_type is None
        assert frame_sample_rate == 3
        self.transforms = gaze_transform, task_transform
        self.clip_len = clip_len
        path = gt_gazing_pos_paths[split]
        self.labels = json.loads(Path(path).read_text()) if path else {}

    def __len__(self):
        return 8

    def __getitem__(self, number):
        size = self.transforms[0].size["shortest_edge"]
        clip = np.full((self.clip_len, size, size + 32, 3), number * 30, dtype=np.uint8)
        clip[:, :, : size // 2] += 5
        path = f"a/train/{number}.mp4"
        return {
            "video": transform_video_for_pytorch(clip, self.transforms[0]),
            "video_for_task": transform_video_for_pytorch(clip[:, :, :size], self.transforms[1]),
            "is_valid": True,
            "video_path": path,
            "tags": {"number": number},
            "gt_gazing_info": self.labels.get(path, []),
        }


TASK = {
    "_target_": f"{HERE}.MeanColour",
    "decoder": {"outputs": 3},
    "scales": "32+64",
    "recon_sample_rate": 0.5,
    "attn_mode": "sdpa",
}
DATASET = {
    "_target_": f"{HERE}.Stills",
    "clip_len": 2,
    "frame_sample_rate": 3,
    "train_data_aug": {"aug_type": None},
}


def config(folder, kind, **groups):
    found = tiny_config(kind, folder)
    found["dataset"], found["task"] = dict(DATASET), dict(TASK)
    for name, values in groups.items():
        found[name] = {**found[name], **values}
    return found


def make_task(**options):
    from omegaconf import OmegaConf

    values = {**TASK, **options}
    del values["_target_"]
    return PublishedTask(MeanColour(**OmegaConf.create(values)), PYRAMID)


def gaze_of(*lengths):
    ids = [patch for clip in lengths for count in clip for patch in range(count)]
    return Gaze(PYRAMID, torch.tensor(ids), torch.tensor(lengths))


# Tasks.


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_task_gets_and_gives_what_the_published_trainer_reads(rate):
    task, rgb = make_task(recon_sample_rate=rate), torch.rand(2, 2, 3, 64, 64)
    output = task(
        rgb, gaze_of([1, 2], [3, 1]), (0,), {"video_path": ("a", "b"), "label": torch.ones(2)}
    )
    [inputs] = task.module.calls
    torch.testing.assert_close(inputs["video"], normalise(rgb))
    pixels = (rgb * 255).round() / 127.5 - 1
    mean, std = task.transform.image_mean, task.transform.image_std
    wanted = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(inputs["video_for_task"], wanted, rtol=1e-4, atol=1e-4)
    assert inputs["video_path"] == ["a", "b"], "lists, as PyTorch collates strings"
    assert "group_size" not in inputs
    F = int(2 * rate)
    assert len(output.frames) == F
    assert output.losses.shape == (2, F)
    assert output.losses.requires_grad
    assert not output.reward.requires_grad
    torch.testing.assert_close(output.loss, -output.reward.mean(1))
    torch.testing.assert_close(output.measured, -output.reward)
    metrics = output.metrics()
    assert metrics["own_loss"].unique().tolist() == [3.0]
    torch.testing.assert_close(metrics["loss"].mean(), metrics["colour_loss"].mean())


def test_a_group_is_scored_in_one_call():
    task, rgb = make_task(), torch.rand(3, 2, 3, 64, 64)
    gazes = [gaze_of([1, 2], [3, 1], [1, 1]), gaze_of([4, 4], [4, 4], [4, 4])]
    extra = {"label": torch.arange(3), "video_path": ("a", "b", "c")}
    outputs = task.of_groups(rgb, gazes, (0, 1), extra)
    [inputs] = task.module.calls
    assert inputs["group_size"] == 2
    assert inputs["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert inputs["video_path"] == ["a", "b", "c"] * 2
    assert torch.equal(inputs["video_for_task"][:3], inputs["video_for_task"][3:])
    assert outputs[0].frames == outputs[1].frames, "of frames drawn at random"
    assert [output.losses.shape for output in outputs] == [(3, 1), (3, 1)]
    again = [PublishedTask(task.module, PYRAMID)(rgb, gaze, (0, 1)) for gaze in gazes]
    assert {a.frames for a in again} <= {(0,), (1,)}


class Given(nn.Module):
    """Returns what it was given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, inputs, gaze_outputs):
        return self.output


def test_rewards_lie_at_the_ends_of_their_frames():
    reward = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    gaze = gaze_of([1, 2], [3, 1])  # 3 slots, then 2
    rgb = torch.rand(2, 2, 3, 64, 64)
    made = PublishedTask(Given({"reward": reward, "traj_len_each_reward": [5, 3]}), PYRAMID)
    output = made(rgb, gaze, (0, 1))
    assert output.frames == (1, 0)
    assert output.reward.tolist() == reward.tolist()
    one = PublishedTask(Given({"reward": reward[:, 0], "loss": torch.tensor(2.0)}), PYRAMID)
    assert one(rgb, gaze, (0, 1)).frames == (1,)
    assert one(rgb, gaze, (0, 1)).losses.tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    "output",
    [
        {"reward": torch.ones(2, 1), "traj_len_each_reward": [4]},
        {"reward": torch.ones(2, 1), "traj_len_each_reward": [3, 5]},
        {"reward": torch.ones(2, 3)},
        {"loss": torch.ones(3)},
        {"loss": torch.ones(2), "task_losses": torch.ones(2, 4)},
        {"loss": torch.ones(2), "metrics": {"x": torch.ones(5)}},
        {"metrics": {}},
        torch.ones(2),
    ],
)
def test_outputs_of_another_form_are_refused(output):
    with pytest.raises(TrainingError):
        PublishedTask(Given(output), PYRAMID)(
            torch.rand(2, 2, 3, 64, 64), gaze_of([1, 2], [3, 1]), (0, 1)
        )


@pytest.mark.parametrize(
    "asked", [{"target_scales": [56, 112]}, {"target_patch_size": 32}, {"gazing_ratio": 0.5}]
)
def test_gaze_model_kwargs_that_cannot_be_given_are_refused(asked):
    with pytest.raises(TrainingError, match="MeanColour"):
        make_task(extra_kwargs=asked)


# Datasets.


def test_a_datasets_clips_are_bytes_again_with_the_tasks_video():
    transform = VivitImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    dataset = read_dataset(DATASET)
    [plain, own] = [
        given.clips("val", PYRAMID, 0)[ClipKey(0, 7)]
        for given in (dataset, dataset.with_task_transform(transform))
    ]
    assert plain.name == "a/train/7.mp4"
    assert plain.frames.shape == (2, 3, 64, 64)
    assert plain.frames.dtype == torch.uint8
    assert sorted(plain.frames.unique().tolist()) == [210, 215]
    assert "video_for_task" not in plain.extra, "it is made by the task's own transform"
    assert own.extra["video_for_task"].shape == (2, 3, 64, 64)
    assert own.extra["tags"] == {"number": 7}
    assert torch.equal(own.frames, plain.frames)


def test_invalid_clips_are_unreadable():
    item = {"video": torch.zeros(2, 3, 8, 8), "is_valid": False, "video_path": "x.mp4"}
    clip = PlainClips([item], 2, 8, normalised=True)[0]
    assert isinstance(clip, UnreadableClip)
    assert clip.name == "x.mp4"


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"gazing_pos": [[0, 1]], "task_losses": [[1, 1]]}, "2 frames"),
        ({"gazing_pos": [[0], [V]], "task_losses": [[1], []]}, "loss per patch"),
        ({"gazing_pos": [[0], [0]]}, "numbered over the clip"),
        ({"positions": [[0], [V]]}, "gazing_pos"),
        ([1, 2], "gazing_pos"),
    ],
)
def test_labels_of_another_form_are_refused(info, message):
    item = {"video": torch.zeros(2, 3, 8, 8), "gt_gazing_info": info}
    with pytest.raises(TrainingError, match=message):
        PlainClips([item], 2, 8, num_patches=V)[0]


@pytest.mark.parametrize("value", [5.0, -9.0, float("nan")])
def test_frames_that_gaze_transform_did_not_make_are_refused(value):
    item = {"video": torch.full((2, 3, 8, 8), value)}
    with pytest.raises(TrainingError, match="gaze_transform"):
        PlainClips([item], 2, 8, normalised=True)[0]


def test_options_of_outside_classes_keep_their_names():
    given = {"task": TASK, "dataset": DATASET, "trainer": {"logdir": "x"}}
    found = with_our_names(given)
    assert found == {**given, "trainer": {"exp_folder": "x"}}
    assert list(found) == list(given)


# Trainings.


def test_a_published_task_and_dataset_train_together(tmp_path):
    options = config(
        tmp_path,
        "grpo",
        algorithm={"optimize_task_loss_prediction": True},
        trainer={"train_task": True, "detach_task": False, "max_steps": 2, "val_nsteps": 2},
    )
    trainer = build_trainer(options)
    task = trainer.objective.task
    before = task.module.head.weight.detach().clone()
    trainer.fit()
    assert not torch.equal(task.module.head.weight, before)
    entries = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert sum("task_loss" in entry for entry in entries) == 2
    assert any(entry.get("reward_spread", 0) > 0 for entry in entries)
    assert any("prediction_loss" in entry for entry in entries)
    [*_, validated] = [entry for entry in entries if "val/colour_loss" in entry]
    assert validated["val/colour_loss"] == pytest.approx(validated["val/loss"], rel=1e-4)
    grouped = [inputs for inputs in task.module.calls if "group_size" in inputs]
    assert len(grouped) == 2
    numbers = grouped[0]["tags"]["number"]
    assert torch.equal(numbers[:4], numbers[4:]), "a dict of tensors, repeated with its clips"
    assert grouped[0]["is_valid"].tolist() == [True] * 8


class Halved(VideoMAEReconstruction):
    """The loss is half the known one."""

    def loss(self, inputs, gaze_outputs, outputs):
        loss, *others = super().loss(inputs, gaze_outputs, outputs)
        return loss / 2, *others


def test_a_class_derived_from_video_mae_reconstruction_trains(tmp_path):
    shape = {**VIDEO_MAE["recon_model_config"], "scales": "32+64", "image_size": 64}
    save_video_mae(VideoMAE(VideoMAEConfig.of(shape)), tmp_path / "mae")
    trains = {"train_task": True, "detach_task": False, "max_steps": 2, "val_nsteps": 2}
    options = config(tmp_path, "grpo", trainer=trains)
    options["task"] = {
        "_target_": f"{HERE}.Halved",
        "recon_model": str(tmp_path / "mae"),
        "recon_model_config": {"loss_type": "l1", "loss_weights": "1", "causal": True},
        "scales": "32+64",
        "recon_sample_rate": 0.5,
        "attn_mode": "sdpa",
    }
    trainer = build_trainer(options)
    before = trainer.objective.task.module.mae.decoder.mask_token.detach().clone()
    trainer.fit()
    assert not torch.equal(trainer.objective.task.module.mae.decoder.mask_token, before)
    entries = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert any("task_loss" in entry for entry in entries)
    [*_, validated] = [entry for entry in entries if "val/reconstruction_loss" in entry]
    whole, half = validated["val/reconstruction_loss"], validated["val/loss"]
    assert half == pytest.approx(whole / 2, rel=1e-4)


def test_labels_of_a_published_dataset_train_by_ntp(tmp_path):
    labels = {
        f"a/train/{n}.mp4": {"gazing_pos": [[n, 3], [V + 1]], "task_losses": [[0.5, 0.4], [0.3]]}
        for n in range(8)
        if n != 3
    } | {"a/train/3.mp4": {"gazing_pos": [[4], [V, V + 3]], "task_losses": [[0.5], [0.4, 0.2]]}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    options = config(
        tmp_path,
        "ntp",
        dataset={"gt_gazing_pos_paths": {"train": str(tmp_path / "labels.json"), "val": None}},
    )
    trainer = build_trainer(options)
    clip = trainer.data.train[ClipKey(0, 2)]
    assert clip.labels.ids == ((2, 3), (1,))
    assert clip.labels.losses == ((0.5, 0.4), (0.3,))
    trainer.fit()
    losses = [e["loss"] for e in read_metrics(tmp_path / "tiny" / "metrics.jsonl") if "loss" in e]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


class Classes(VideoFolder):
    """Videos with a class each: the first letter of their names."""

    def __init__(self, root, classes=("a",), **options):
        super().__init__(root, **options)
        self.classes = list(classes)

    def __getitem__(self, idx):
        item = super().__getitem__(idx)
        item["label"] = self.classes.index(Path(self.data[idx]).name[0])
        return item


@pytest.fixture
def videos(tmp_path):
    for name in ("set/train/a1", "set/train/b1", "set/val/a2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / f"{name}.mp4", 6)
    (tmp_path / "set" / "train" / "b2.mp4").write_bytes(b"damaged")
    return tmp_path / "set"


FOLDER = {
    "_target_": f"{HERE}.Classes",
    "clip_len": 2,
    "classes": ["a", "b"],
    "max_unreadable": 0.5,
}


def test_a_class_derived_from_video_folder_trains(tmp_path, videos):
    options = config(tmp_path, "grpo")
    options["dataset"] = {**FOLDER, "root": str(videos), "frame_sample_rate": 2}
    trainer = build_trainer(options)
    clips = trainer.data.train
    assert [clips[n].extra["label"] for n in (0, 1)] == [0, 1]
    assert isinstance(clips[2], UnreadableClip)
    assert clips[0].frames.shape == (2, 3, 64, 64)
    assert clips[0].name == str(videos / "train" / "a1.mp4")
    state = trainer.fit()
    assert state.unreadable > 0
    labels = [inputs["label"] for inputs in trainer.objective.task.module.calls]
    assert {int(label) for row in labels for label in row} == {0, 1}


def test_its_labels_train_by_ntp(tmp_path, videos):
    labels = {
        f"/x/set/train/{n}1.mp4": {"gazing_pos": [[2], [V + 1]], "task_losses": [[0.5], [0.3]]}
        for n in "ab"
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    options = config(tmp_path, "ntp")
    options["dataset"] = {
        **FOLDER,
        "root": str(videos),
        "gt_gazing_pos_paths": {"train": str(tmp_path / "labels.json"), "val": None},
    }
    trainer = build_trainer(options)
    assert len(trainer.data.train) == 2
    assert trainer.data.train[1].labels.ids == ((2,), (1,))
    trainer.fit()


@pytest.mark.parametrize(
    ("changes", "named"), [({"clases": ["a"]}, "classes"), ({"root": "nowhere"}, "nowhere")]
)
def test_options_that_neither_class_takes_are_refused(changes, named, videos):
    dataset = read_dataset({**FOLDER, "root": str(videos), **changes})
    with pytest.raises(TrainingError, match=named):
        dataset.clips("train", PYRAMID, 0)
