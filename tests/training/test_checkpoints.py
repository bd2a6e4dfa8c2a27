"""What checkpoints leave behind, also on a disk that is full."""

import json
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import autogaze
from autogaze import PatchPyramid
from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze import AutoGaze, AutoGazeImageProcessor
from autogaze.tasks.published import PublishedTask
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.training.checkpoints import Checkpoints, load_task, save_task
from autogaze.training.step import TrainingStep
from tests.disks import small_disk
from tests.training.tiny import assert_same, tiny_trainer, weights_after


def test_the_latest_selector_is_a_folder_for_from_pretrained(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path)
    trainer.fit()
    folder = tmp_path / "tiny" / "checkpoint_latest_gaze"
    model = AutoGaze.from_pretrained(folder)
    assert_same(trainer.objective.model.state_dict(), model.state_dict())
    assert model.config.decode_positions == "sequential"
    assert AutoGazeImageProcessor.from_pretrained(folder).size == {"shortest_edge": 64}
    gaze = autogaze.load(folder).select(torch.rand(1, 2, 3, 64, 64), ratio=0.2)
    assert gaze.lengths.tolist() == [[4, 4]]


def test_the_latest_task_model_can_be_loaded(tmp_path):
    trainer = tiny_trainer("task", tmp_path)
    trainer.fit()
    task = VideoMAETask.from_checkpoint(tmp_path / "tiny" / "checkpoint_latest_task")
    assert_same(dict(trainer.objective.task.mae.state_dict()), dict(task.mae.state_dict()))


def test_weights_can_be_started_from(tmp_path):
    for kind, option in (("ntp", "gaze_weights"), ("task", "task_weights")):
        tiny_trainer(kind, tmp_path / kind, max_steps=1).fit()
        part = "task" if kind == "task" else "gaze"
        source = tmp_path / kind / "tiny" / f"checkpoint_latest_{part}"
        trainer = tiny_trainer(kind, tmp_path / "next", seed=5, **{option: str(source)})
        module = trainer.objective.task.mae if kind == "task" else trainer.objective.model
        assert_same(weights_after(tmp_path / kind, kind), dict(module.state_dict()))


def test_the_newest_two_are_kept(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=5, save_nsteps=1).fit()
    kept = Checkpoints(tmp_path / "tiny").all()
    assert [path.name for path in kept] == ["step-00000004", "step-00000005"]
    for path in kept:
        assert {part.name for part in path.iterdir()} == {
            "gaze",
            "optimizer.pt",
            "options.json",
            "state.json",
        }


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path, monkeypatch, caplog):
    save, saved = Checkpoints.save, []

    def on_a_disk_that_is_full_for_a_while(self, state, *parts):
        saved.append(state.step)
        if state.step == 2:
            with small_disk(kilobytes=16):
                return save(self, state, *parts)
        return save(self, state, *parts)

    monkeypatch.setattr(Checkpoints, "save", on_a_disk_that_is_full_for_a_while)
    with caplog.at_level(logging.ERROR):
        tiny_trainer("ntp", tmp_path, max_steps=3, save_nsteps=1).fit()
    assert saved == [1, 2, 3]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert any("step 2 " in message for message in errors)
    names = [path.name for path in Checkpoints(tmp_path / "tiny").all()]
    assert names == ["step-00000001", "step-00000003"]
    assert not list((tmp_path / "tiny" / "checkpoints").glob(".*"))
    AutoGaze.from_pretrained(tmp_path / "tiny" / "checkpoint_latest_gaze")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("unexpected pos 64 vs 0\nmore of torch"), "unexpected pos 64 vs 0$"),
    ],
)
def test_a_disk_that_stays_full_ends_training_with_its_cause(error, cause, tmp_path, monkeypatch):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    good = weights_after(tmp_path, "ntp")

    def full(*_):
        raise error

    monkeypatch.setattr("autogaze.training.checkpoints.torch.save", full)
    with pytest.raises(TrainingError, match=rf"could not be saved: .*{cause}"):
        tiny_trainer("ntp", tmp_path, max_steps=3, resume=True).fit()
    assert_same(good, weights_after(tmp_path, "ntp"))
    assert [path.name for path in Checkpoints(tmp_path / "tiny").all()] == ["step-00000001"]


@pytest.mark.parametrize("bad", ["loss", "gradients", "weights"])
def test_what_is_not_finite_ends_training_and_is_never_saved(bad, tmp_path, monkeypatch):
    tiny_trainer("ntp", tmp_path, max_steps=2, save_nsteps=1).fit()
    good = weights_after(tmp_path, "ntp")
    trainer = tiny_trainer("ntp", tmp_path, max_steps=4, save_nsteps=1, resume=True)
    parameter = trainer.step.parameters[0]
    if bad == "loss":
        monkeypatch.setattr(TrainingStep, "_backward", lambda *_: torch.tensor([math.nan] * 2))
    elif bad == "gradients":
        parameter.register_hook(lambda gradient: gradient * math.inf)
    else:
        descend = TrainingStep._update

        def to_infinity(self, *numbers):
            descend(self, *numbers)
            parameter.data.fill_(math.inf)

        monkeypatch.setattr(TrainingStep, "_update", to_infinity)
    with pytest.raises(TrainingError, match=rf"step 3: .*{bad[:6]}.*trainer\.lr .*max_grad_norm"):
        trainer.fit()
    assert_same(good, weights_after(tmp_path, "ntp"))
    names = [path.name for path in Checkpoints(tmp_path / "tiny").all()]
    assert names == ["step-00000001", "step-00000002"]


def test_only_a_training_writes_its_options(tmp_path):
    path = tmp_path / "tiny" / "config.json"
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    before = path.read_text()
    assert json.loads(before)["trainer"]["max_steps"] == 1
    with pytest.raises(TrainingError, match="already holds"):
        tiny_trainer("ntp", tmp_path, max_steps=2).fit()
    tiny_trainer("ntp", tmp_path, val_only=True, resume=True).fit()
    assert path.read_text() == before
    tiny_trainer("ntp", tmp_path, max_steps=2, resume=True).fit()
    assert json.loads(path.read_text())["trainer"]["max_steps"] == 2


class OfAUser(torch.nn.Module):
    """A task of the published interface, with weights and a frozen network."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)

    def forward(self, inputs, gaze_outputs):
        return {"loss": 0.0}


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved, and as by distributed training
def test_a_published_tasks_weights_have_its_own_names_and_load(tmp_path, prefix):
    task, other = (PublishedTask(OfAUser(), PatchPyramid((32, 64), 16)) for _ in range(2))
    save_task(task, tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    assert state.keys() == {"head.weight", "head.bias"}
    save_file({prefix + name: value for name, value in state.items()}, file)
    load_task(other, tmp_path)
    assert_same(dict(other.module.head.state_dict()), dict(task.module.head.state_dict()))


class WithBuffers(OfAUser):
    """The same with a running baseline, and a normalisation without weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("baseline", torch.rand(1))
        self.norm = torch.nn.BatchNorm1d(2, affine=False)
        torch.nn.init.uniform_(self.norm.running_mean)


def test_a_published_tasks_own_buffers_are_saved_and_load(tmp_path):
    task, other = (PublishedTask(WithBuffers(), PatchPyramid((32, 64), 16)) for _ in range(2))
    save_task(task, tmp_path)
    load_task(other, tmp_path)
    other.module.frozen = task.module.frozen  # the only part that is not saved
    assert_same(dict(other.state_dict()), dict(task.state_dict()))


def test_published_tasks_checkpoints_of_earlier_versions_load(tmp_path):
    task, other = (PublishedTask(WithBuffers(), PatchPyramid((32, 64), 16)) for _ in range(2))
    whole, file = task.state_dict(), tmp_path / "model.safetensors"
    save_file(whole, file)  # frozen networks too, all of it under `module.`
    load_task(other, tmp_path)
    assert_same(dict(other.state_dict()), dict(whole))
    save_file({name: value for name, value in whole.items() if ".head." in name}, file)
    load_task(other, tmp_path)
    save_file({name: value for name, value in whole.items() if ".head." not in name}, file)
    with pytest.raises(CheckpointError, match="2 missing"):
        load_task(other, tmp_path)
