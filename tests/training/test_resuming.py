"""An interrupted training goes on as if it had not been interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autogaze.errors import CheckpointError, TrainingError
from autogaze.training.building import build_trainer
from autogaze.training.checkpoints import Checkpoints
from autogaze.training.journal import read_metrics
from autogaze.training.stepping import Stepper
from tests.training.tiny import (
    JUDGE,
    assert_same,
    tiny_config,
    tiny_trainer,
    weights_after,
)

ROOT = Path(__file__).resolve().parents[2]


def start(folder, **options):
    """A training as a process of its own."""
    command = [sys.executable, "-m", "tests.training.run", str(folder), json.dumps(options)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE)


class InterruptedTrainingError(Exception):
    """What ends a training in the middle."""


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("ntp", "adam"), ("ntp", "sgd"), ("grpo", "adam"), ("judge", "adamw")]
)
def test_resumed_training_ends_with_the_same_bits(kind, optimizer, tmp_path, monkeypatch):
    options = {"optimizer": optimizer, "max_steps": 5, "momentum": 0.9, "num_workers": 0}
    tiny_trainer(kind, tmp_path / "whole", **options).fit()
    step = Stepper.step
    last = random.randrange(2, 5)

    def interrupted(self, state, batches):
        if state.step == last:
            raise InterruptedTrainingError
        return step(self, state, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "step", interrupted)
        with pytest.raises(InterruptedTrainingError):
            tiny_trainer(kind, tmp_path / "parts", **options).fit()
    tiny_trainer(kind, tmp_path / "parts", resume=True, **options).fit()
    assert_same(weights_after(tmp_path / "whole", kind), weights_after(tmp_path / "parts", kind))
    logs = [read_metrics(tmp_path / part / "tiny" / "metrics.jsonl") for part in ("whole", "parts")]
    losses = [[(e["step"], e.get("loss"), e.get("task_loss")) for e in log] for log in logs]
    assert losses[0] == losses[1]


def test_killed_at_any_step_it_resumes_with_the_same_bits(tmp_path):
    steps = 8
    options = {"kinds": ["grpo"], "max_steps": steps, "num_workers": 1, "save_nsteps": 1}
    process = start(tmp_path / "parts", **options)
    metrics = tmp_path / "parts" / "grpo" / "tiny" / "metrics.jsonl"
    last = random.randrange(2, 5)
    while len(read_metrics(metrics)) < last:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(read_metrics(metrics)) < steps
    tiny_trainer("grpo", tmp_path / "parts" / "grpo", resume=True, max_steps=steps).fit()
    tiny_trainer("grpo", tmp_path / "whole", max_steps=steps, save_nsteps=steps).fit()
    assert_same(
        weights_after(tmp_path / "whole", "grpo"), weights_after(tmp_path / "parts/grpo", "grpo")
    )


def test_killed_while_saving_it_resumes_from_the_last_good_checkpoint(tmp_path):
    options = {"max_steps": 5, "save_nsteps": 1}
    process = start(tmp_path / "parts", kinds=["ntp"], die_while_saving=3, **options)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    folder = tmp_path / "parts" / "ntp"
    checkpoints = Checkpoints(folder / "tiny")
    assert [path.name for path in checkpoints.all()] == ["step-00000001", "step-00000002"]
    assert list(checkpoints.steps_folder.glob(".*.part")), "the half-written one"
    tiny_trainer("ntp", folder, resume=True, **options).fit()
    assert not list(checkpoints.steps_folder.glob(".*.part"))
    tiny_trainer("ntp", tmp_path / "whole", **options).fit()
    assert_same(weights_after(tmp_path / "whole", "ntp"), weights_after(folder, "ntp"))


def test_a_damaged_checkpoint_is_put_aside_for_an_older_one(tmp_path, caplog):
    tiny_trainer("ntp", tmp_path).fit()
    checkpoints = Checkpoints(tmp_path / "tiny")
    older, newest = checkpoints.all()
    whole = weights_after(tmp_path, "ntp")
    (newest / "optimizer.pt").write_bytes(b"not an optimizer")
    tiny_trainer("ntp", tmp_path, resume=True).fit()
    assert "trying an older checkpoint" in caplog.text
    assert (newest.parent / f"broken-{newest.name}").is_dir()
    assert_same(whole, weights_after(tmp_path, "ntp"))
    (older / "state.json").unlink()
    for path in checkpoints.all():
        (path / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        tiny_trainer("ntp", tmp_path, resume=True).fit()


def test_a_damaged_judge_is_put_aside_too(tmp_path, caplog):
    tiny_trainer("judge", tmp_path).fit()
    whole = weights_after(tmp_path, "judge")
    newest = Checkpoints(tmp_path / "tiny").all()[-1]
    # The latest judge is a second name of this file, hence a new one.
    (newest / "task" / "model.safetensors").unlink()
    (newest / "task" / "model.safetensors").write_bytes(b"not weights")
    tiny_trainer("judge", tmp_path, resume=True).fit()
    assert "trying an older checkpoint" in caplog.text
    assert_same(whole, weights_after(tmp_path, "judge"))


def test_validating_a_checkpoint_takes_its_judge(tmp_path):
    tiny_trainer("judge", tmp_path, max_steps=1).fit()
    trainer = tiny_trainer("judge", tmp_path, val_only=True, resume=True)
    trainer.fit()
    assert_same(weights_after(tmp_path, "judge"), dict(trainer.learner.task.mae.state_dict()))


def test_validating_random_weights_is_refused(tmp_path):
    for resume in (False, True):
        with pytest.raises(TrainingError, match=r"random weights.*trainer\.gaze_weights"):
            tiny_trainer("ntp", tmp_path, val_only=True, resume=resume)


def test_a_path_can_be_resumed_from(tmp_path):
    tiny_trainer("ntp", tmp_path / "first", max_steps=4, lr_schedule="constant").fit()
    older = Checkpoints(tmp_path / "first" / "tiny").all()[0]
    for name, resume in (("a", older), ("b", tmp_path / "first" / "tiny")):
        changes = {"resume": str(resume), "lr_schedule": "constant", "max_steps": 6}
        tiny_trainer("ntp", tmp_path / name, **changes).fit()
    tiny_trainer("ntp", tmp_path / "c", max_steps=6, lr_schedule="constant").fit()
    for name in "ab":
        assert_same(weights_after(tmp_path / name, "ntp"), weights_after(tmp_path / "c", "ntp"))
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        tiny_trainer("ntp", tmp_path / "d", resume=str(tmp_path)).fit()


def test_another_training_is_never_overwritten(tmp_path):
    tiny_trainer("ntp", tmp_path).fit()
    whole = weights_after(tmp_path, "ntp")
    with pytest.raises(TrainingError, match=r"already holds a checkpoint.*trainer\.resume=True"):
        tiny_trainer("ntp", tmp_path, seed=1).fit()
    assert_same(whole, weights_after(tmp_path, "ntp"))


def test_resuming_where_nothing_was_saved_starts_afresh(tmp_path):
    tiny_trainer("ntp", tmp_path, resume=True, max_steps=1).fit()
    assert torch.isfinite(next(iter(weights_after(tmp_path, "ntp").values()))).all()


def test_another_architecture_is_refused(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    config = tiny_config("ntp", tmp_path, resume=True, max_steps=2)
    config["model"]["gaze_model_config"]["gaze_decoder_config"]["num_hidden_layers"] = 3
    with pytest.raises(CheckpointError, match="another architecture than the model options"):
        build_trainer(config).fit()
    config["trainer"] |= {"resume": False, "exp_name": "other"}
    config["trainer"]["gaze_weights"] = str(tmp_path / "tiny" / "checkpoint_latest_gaze")
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        build_trainer(config)


def test_another_optimizer_is_refused(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    for changes in ({"optimizer": "sgd"}, {"train_task": True, "detach_task": False}):
        config = tiny_config("ntp", tmp_path, resume=True, max_steps=2, **changes)
        if "train_task" in changes:
            config["task"] = dict(JUDGE)
        with pytest.raises(CheckpointError, match=r"of another training|no such checkpoint"):
            build_trainer(config).fit()


def test_a_resumed_training_takes_new_settings(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1, optimizer="adamw").fit()
    trainer = tiny_trainer(
        "ntp", tmp_path, max_steps=2, optimizer="adamw", weight_decay=0.25, resume=True
    )
    trainer.fit()
    assert trainer.stepper.optimizer.param_groups[0]["weight_decay"] == 0.25
