"""Tasks, datasets, algorithms and models from outside the package."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autogaze import Gaze, PatchPyramid, train
from autogaze.datasets.clip import ClipKey, TrainingClip, collate
from autogaze.datasets.plain import PlainClips
from autogaze.errors import TrainingError
from autogaze.models.autogaze import AutoGaze
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.published import PublishedTask
from autogaze.training import plugins
from autogaze.training.algorithms import GRPO, read_algorithm
from autogaze.training.factory import build_model, build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.mixture import read_dataset
from autogaze.training.tasks import read_task
from tests.training.composed import SHORT, SMALL
from tests.training.tiny import MODEL, tiny_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
HERE = __name__
PYRAMID = PatchPyramid((32, 64))


class Labelled(torch.utils.data.Dataset):
    """Map-style clips, grey by their number, with a label and a caption."""

    def __init__(self, split, clip_len, side, num_clips=8):
        self.shape, self.num_clips = (clip_len, 3, side, side), num_clips

    def __len__(self):
        return self.num_clips

    def __getitem__(self, number):
        video = torch.full(self.shape, number / 10) + torch.linspace(0, 0.2, self.shape[-1])
        return {"video": video, "label": number, "caption": f"clip {number}"}


class Own(Task):
    """The reward is the clip's label: what reaches `forward` shows in what is logged."""

    metric = "own"

    def __init__(self, pyramid, recon_sample_rate=1.0, *, factor=1.0):
        super().__init__(pyramid, recon_sample_rate)
        self.bias = nn.Parameter(torch.zeros(1))
        self.factor = factor

    def forward(self, frames, gaze, scored, extra=None):
        assert extra["caption"] == tuple(f"clip {label}" for label in extra["label"].tolist())
        first = (frames[:, 0, 0, 0, 0] * 10).round()
        assert torch.equal(first, extra["label"].to(first)), "extra must be of the same clips"
        reward = self.factor * extra["label"][:, None].float()
        return TaskOutput(
            (frames.shape[1] - 1,), (self.bias - 1).square().expand_as(reward), own_reward=reward
        )


class Published(nn.Module):
    def __init__(self, scales, value="per clip"):
        super().__init__()
        self.scales, self.value = scales, value
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, gaze_outputs):
        B, T = inputs["video"].shape[:2]
        counts = (~gaze_outputs["if_padded_gazing"]).sum(1).float()
        loss = {
            "one": counts.sum() + self.bias.sum(),
            "per clip": counts + self.bias,
            "per frame": counts[:, None].expand(-1, T) + self.bias,
            "wrong": counts.expand(3, 1, B),
        }[self.value]
        return {"loss": loss, "metrics": {"labels": inputs["label"].float()}}


class Twice(GRPO):
    name = "twice"


class Wider(AutoGaze):
    pass


def make_nothing(pyramid):
    return None


def config(folder, kind="grpo", **groups):
    found = tiny_config(kind, folder)
    found["dataset"] = {"_target_": f"{HERE}.Labelled", "clip_len": 2}
    found["task"] = {"_target_": f"{HERE}.Own", "scales": "32+64"}
    for name, values in groups.items():
        found[name] = {**found[name], **values}
    return found


def test_outside_task_dataset_and_algorithm_train(tmp_path):
    options = config(
        tmp_path,
        algorithm={"_target_": f"{HERE}.Twice", "name": "ignored"},
        model={"_target_": f"{HERE}.Wider"},
        task={"factor": 2.0},
        trainer={"train_task": True, "detach_task": False, "max_steps": 2, "val_nsteps": 2},
    )
    del options["algorithm"]["name"]
    trainer = build_trainer(options)
    assert type(trainer.objective.model) is Wider
    trainer.fit()
    entries = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    [first, *_] = [entry for entry in entries if "reward" in entry]
    assert 0 < first["reward"] < 14, "twice the mean label"
    assert first["groups_without_spread"] == 1, "labels are the same within a group"
    [*_, validated] = [entry for entry in entries if "val/reward" in entry]
    assert validated["val/loss"] < 1, "the task learned, by a parameter of its own"
    again = build_trainer(
        config(
            tmp_path / "again",
            trainer={"task_weights": str(tmp_path / "tiny/checkpoint_latest_task"), "max_steps": 1},
        )
    )
    assert torch.equal(again.objective.task.bias, trainer.objective.task.bias)
    assert float(again.objective.task.bias.detach()) > 0


@pytest.mark.parametrize("value", ["one", "per clip", "per frame"])
def test_published_tasks_run_through_an_adapter(value):
    task = read_task({"_target_": f"{HERE}.Published", "scales": "32+64", "value": value})
    task = task.build(PYRAMID)
    assert isinstance(task, PublishedTask)
    assert task.module.scales == "32+64"
    gaze = Gaze(PYRAMID, torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([[1, 2], [1, 2]]))
    output = task(torch.rand(2, 2, 3, 64, 64), gaze, (0,), {"label": torch.tensor([4, 5])})
    wanted = {"one": [[6.0], [6.0]], "per clip": [[3.0], [3.0]], "per frame": [[3.0] * 2] * 2}
    assert output.losses.tolist() == wanted[value]
    assert output.frames == ((0, 1) if value == "per frame" else (1,))
    assert output.reward.tolist() == (-output.losses).tolist()
    assert output.metrics()["labels"].mean(1).tolist() == [4.0, 5.0]
    assert output.losses.requires_grad


def test_published_tasks_with_other_shapes_are_refused():
    task = PublishedTask(Published("32+64", "wrong"), PYRAMID)
    gaze = Gaze.everything(PYRAMID, num_clips=2, num_frames=2)
    with pytest.raises(TrainingError, match=r"loss.*2 clips.*\(3, 1, 2\)"):
        task(torch.rand(2, 2, 3, 64, 64), gaze, (0,), {"label": torch.tensor([4, 5])})


BAD = {
    "no.such.Task": "no module no",
    f"{HERE}.Missing": "Missing",
    f"{HERE}.PAGE": "no class or function",
    "Task": "path of a class or function",
    f"{HERE}.make_nothing": "NoneType",
}


@pytest.mark.parametrize("target", BAD)
def test_bad_targets_are_named(target):
    with pytest.raises(TrainingError, match=rf"(?s)task.*{re.escape(BAD[target])}"):
        read_task({"_target_": target, "scales": "32+64"}).build(PYRAMID)


@pytest.mark.parametrize("options", [{"factr": 2}, {"value": "x"}])
def test_options_that_a_target_does_not_take_are_refused(options):
    with pytest.raises(TrainingError, match=rf"task\.{next(iter(options))}\b"):
        read_task({"_target_": f"{HERE}.Own", **options}).build(PYRAMID)


def test_what_a_dataset_lacks_is_named():
    with pytest.raises(TrainingError, match=r"unknown option dataset\.roof"):
        read_dataset({"_target_": f"{HERE}.Labelled", "roof": "x"}).clips("train", PYRAMID, 0)


def test_other_kinds_of_algorithms_and_models_are_refused():
    with pytest.raises(TrainingError, match="Algorithm"):
        read_algorithm({"_target_": f"{HERE}.Own"})
    with pytest.raises(TrainingError, match="Published, which is no AutoGaze"):
        build_model({"_target_": f"{HERE}.Published", "scales": "32+64"})


@pytest.mark.parametrize("kind", plugins.ENTRY_POINTS)
def test_entry_points_are_found_by_name(kind, monkeypatch):
    names = {"task": "Own", "dataset": "Labelled", "algorithm": "Twice", "model": "Wider"}
    point = EntryPoint("mine", f"{HERE}:{names[kind]}", plugins.ENTRY_POINTS[kind])
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [point] if group == point.group else []
    )
    read = {
        "task": lambda options: read_task(options).build(PYRAMID),
        "dataset": lambda options: read_dataset(options).clips("train", PYRAMID, 0),
        "algorithm": read_algorithm,
        "model": lambda options: build_model({**MODEL, **options}),
    }[kind]
    found = read({"name": "mine"})
    found = found.dataset if kind == "dataset" else found
    assert type(found).__name__ == names[kind]
    with pytest.raises(TrainingError, match=rf"{kind}\.name 'mime' \(did you mean mine\?\)"):
        read({"name": "mime"})


def test_a_broken_entry_point_is_named(monkeypatch):
    point = EntryPoint("mine", "no_such_module:Task", "autogaze.tasks")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.raises(TrainingError, match=r"task\.name=mine: no_such_module:Task"):
        read_task({"name": "mine"})


def test_a_part_of_a_mixture_may_be_from_outside():
    parts = {
        "mine": {"_target_": f"{HERE}.Labelled", "num_clips": 3},
        "shapes": {"name": "procedural", "num_clips": 2},
    }
    clips = read_dataset({"name": "mixture", "clip_len": 2, "parts": parts}).clips(
        "train", PYRAMID, 0
    )
    assert len(clips) == 5


def test_checkpoints_never_name_code(tmp_path, monkeypatch):
    """What a config.json says under `_target_` is not run."""
    model = build_model(MODEL)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "bomb.py").write_text("raise SystemExit('ran')")
    (tmp_path / "config.json").write_text(text.replace("{", '{"_target_": "bomb.Model",', 1))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(AutoGaze.from_pretrained(tmp_path)) is AutoGaze
    assert "bomb" not in sys.modules


# Extra values.


def clip(number, **extra):
    return TrainingClip(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), f"clip {number}", extra=extra)


def test_extra_values_are_collated():
    batch = collate([clip(n, a=n, b=np.ones(2) * n, c=str(n), d=n > 0) for n in range(3)])
    assert batch.extra["a"].tolist() == [0, 1, 2]
    assert batch.extra["b"].shape == (3, 2)
    assert batch.extra["c"] == ("0", "1", "2")
    assert batch.extra["d"].dtype == torch.bool
    assert collate([clip(0)]).extra == {}


@pytest.mark.parametrize("other", [{}, {"b": 1}, {"a": np.zeros(2)}])
def test_extra_values_that_differ_are_refused(other):
    with pytest.raises(TrainingError, match=r"extra.*a"):
        collate([clip(0, a=1), clip(1, **other)])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"label": 1}, "no 'video'"),
        ({"video": torch.zeros(2, 3, 8, 8) - 1}, r"\[0, 1\].*-1 to -1"),
        ({"video": torch.zeros(2, 3, 9, 9)}, r"\(2, 3, 8, 8\), got \(2, 3, 9, 9\)"),
        (3, "dict with 'video', got int"),
    ],
)
def test_items_of_another_form_are_refused(item, message):
    with pytest.raises(TrainingError, match=message):
        PlainClips([item], 2, 8)[ClipKey(1, 0)]


def test_a_tasks_output_has_a_loss_per_scored_frame():
    with pytest.raises(TrainingError, match=r"losses.*\(2, 3\), got \(2, 1\)"):
        TaskOutput((0, 1, 2), torch.zeros(2, 1))


# The page.


def write_files(folder):
    """The files that the page names in their first lines."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, source in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    return [name for name, _ in blocks]


def test_the_pages_command_trains(tmp_path, monkeypatch):
    files = ["my_package.py", "configs/task/brightness.yaml", "configs/dataset/stripes.yaml"]
    assert write_files(tmp_path) == files
    command = re.search(r"python -m autogaze\.train (.*?)\n```", PAGE.read_text(), re.DOTALL)[1]
    words = command.replace("\\\n", " ").split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    small = [*SMALL, *SHORT, "algorithm.group_size=2", "trainer.val_nsteps=2"]
    learns = ["trainer.train_task=true", "trainer.detach_task=false", "trainer.exp_name=page"]
    monkeypatch.setattr(sys, "argv", ["train", *words, *small, *learns])
    train.main()
    entries = read_metrics(Path("exps/page/metrics.jsonl"))
    assert sum("task_loss" in entry for entry in entries) == 2
    assert any("val/wrong" in entry for entry in entries)
