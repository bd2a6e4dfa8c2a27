"""An interrupted training goes on as if it had not been interrupted."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autogaze.errors import CheckpointError, TrainingError
from autogaze.trainer import Trainer
from autogaze.training.checkpoints import Checkpoints
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.step import TrainingStep
from tests.training.tiny import (
    VIDEO_MAE,
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
    ("kind", "optimizer"), [("ntp", "adam"), ("ntp", "sgd"), ("grpo", "adam"), ("task", "adamw")]
)
def test_resumed_training_ends_with_the_same_bits(kind, optimizer, tmp_path, monkeypatch):
    options = {"optimizer": optimizer, "max_steps": 5, "momentum": 0.9, "num_workers": 0}
    tiny_trainer(kind, tmp_path / "whole", **options).fit()
    step = TrainingStep.__call__
    last = random.randrange(2, 5)

    def interrupted(self, state, batches):
        if state.step == last:
            raise InterruptedTrainingError
        return step(self, state, batches)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", interrupted)
        with pytest.raises(InterruptedTrainingError):
            tiny_trainer(kind, tmp_path / "parts", **options).fit()
    tiny_trainer(kind, tmp_path / "parts", resume=True, **options).fit()
    assert_same(weights_after(tmp_path / "whole", kind), weights_after(tmp_path / "parts", kind))
    logs = [read_metrics(tmp_path / part / "tiny" / "metrics.jsonl") for part in ("whole", "parts")]
    losses = [[(e["step"], e.get("loss"), e.get("task_loss")) for e in log] for log in logs]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_killed_at_any_step_it_resumes_with_the_same_bits(tmp_path):
    steps = 6
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


@pytest.mark.slow
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


def validations(folder):
    """Every validation in the log, with its step."""
    log = read_metrics(folder / "tiny" / "metrics.jsonl")
    return [entry for entry in log if any(name.startswith("val/") for name in entry)]


@pytest.mark.parametrize("kind", ["ntp", "grpo"])
@pytest.mark.parametrize("last", [2, 4])
def test_a_validation_that_a_kill_prevented_is_run_on_resuming(kind, last, tmp_path, monkeypatch):
    """Killed between a checkpoint and the validation after it, at the end or in the middle."""
    options = {"val_nsteps": 2, "val_clips": 2, "val_pictures": 0}
    tiny_trainer(kind, tmp_path / "whole", max_steps=4, **options).fit()
    with monkeypatch.context() as patched:
        validate = Trainer._validate

        def killed(self, step):
            if step == last:
                raise InterruptedTrainingError
            validate(self, step)

        patched.setattr(Trainer, "_validate", killed)
        with pytest.raises(InterruptedTrainingError):
            tiny_trainer(kind, tmp_path / "parts", max_steps=4, **options).fit()
    assert Checkpoints(tmp_path / "parts" / "tiny").all()[-1].name == f"step-{last:08d}"
    for _ in range(2):  # and only once
        tiny_trainer(kind, tmp_path / "parts", max_steps=4, resume=True, **options).fit()
        found = validations(tmp_path / "parts")
        assert [entry["step"] for entry in found] == [0, 2, 4]
        assert found == validations(tmp_path / "whole")
    assert_same(weights_after(tmp_path / "whole", kind), weights_after(tmp_path / "parts", kind))


def test_killed_between_a_checkpoint_and_the_latest_weights_they_are_restored(
    tmp_path, monkeypatch, caplog
):
    options = {"max_steps": 4, "save_nsteps": 2}
    tiny_trainer("ntp", tmp_path / "whole", **options).fit()
    folder = tmp_path / "parts"
    make_latest = Checkpoints._make_latest

    def killed(self, checkpoint):
        if checkpoint.name == "step-00000004":
            raise InterruptedTrainingError
        make_latest(self, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "_make_latest", killed)
        with pytest.raises(InterruptedTrainingError):
            tiny_trainer("ntp", folder, **options).fit()
    latest = folder / "tiny" / "checkpoint_latest_gaze"
    left = latest / ".model.0123abcd.part.safetensors"
    left.write_bytes(b"half of the weights")
    tiny_trainer("ntp", folder, resume=True, **options).fit()
    assert "step-00000004" in caplog.text
    assert_same(weights_after(tmp_path / "whole", "ntp"), weights_after(folder, "ntp"))
    assert not left.exists()
    shutil.rmtree(latest)
    tiny_trainer("ntp", folder, resume=True, **options).fit()
    assert_same(weights_after(tmp_path / "whole", "ntp"), weights_after(folder, "ntp"))
    caplog.clear()
    tiny_trainer("ntp", folder, resume=True, **options).fit()
    assert "brought up" not in caplog.text


def test_latest_weights_that_cannot_be_restored_are_reported(tmp_path, monkeypatch, caplog):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    shutil.rmtree(tmp_path / "tiny" / "checkpoint_latest_gaze")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_make_latest", full)
    tiny_trainer("ntp", tmp_path, max_steps=1, resume=True).fit()
    (error,) = (one.getMessage() for one in caplog.records if one.levelname == "ERROR")
    assert re.search(r"latest weights .*step-00000001\b.*No space left", error)


def test_validating_restores_and_cleans_nothing(tmp_path):
    """Its training may be running."""
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    folder = tmp_path / "tiny"
    written = folder / "checkpoints" / ".step-00000002.0123abcd.part"
    written.mkdir()
    shutil.rmtree(folder / "checkpoint_latest_gaze")
    tiny_trainer("ntp", tmp_path, max_steps=1, val_only=True, resume=True).fit()
    assert written.is_dir()
    assert not (folder / "checkpoint_latest_gaze").exists()


def test_another_algorithm_takes_the_weights_and_nothing_else(tmp_path, caplog):
    tiny_trainer("ntp", tmp_path / "ntp", max_steps=2).fit()
    source = tmp_path / "ntp" / "tiny"
    caplog.clear()
    with caplog.at_level("INFO"):
        state = tiny_trainer("grpo", tmp_path / "resumed", resume=str(source), max_steps=2).fit()
    assert (state.step, state.seen) == (2, 8)
    start = [line for line in caplog.messages if line.startswith("start ")]
    assert start[0].endswith("at step 0")
    assert f"weights of {source}" in start[1]
    assert re.search(r"\bnot its optimizer\b.*\bntp$", start[2])
    weights = str(source / "checkpoint_latest_gaze")
    tiny_trainer("grpo", tmp_path / "started", gaze_weights=weights, max_steps=2).fit()
    resumed, started = (weights_after(tmp_path / part, "grpo") for part in ("resumed", "started"))
    assert_same(started, resumed)
    steps = [entry["step"] for entry in read_metrics(tmp_path / "resumed/tiny/metrics.jsonl")]
    assert steps == [1, 2]
    # From its own checkpoint it goes on as ever.
    tiny_trainer("grpo", tmp_path / "resumed", resume=True, max_steps=3).fit()
    tiny_trainer("grpo", tmp_path / "started", resume=True, max_steps=3).fit()
    resumed, started = (weights_after(tmp_path / part, "grpo") for part in ("resumed", "started"))
    assert_same(started, resumed)


def test_two_algorithms_do_not_share_a_folder(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    whole = weights_after(tmp_path, "ntp")
    message = r"\bntp\b.*\bgrpo\b.*exp_name.*gaze_weights=.*latest_gaze"
    for resume in (True, str(tmp_path / "tiny")):
        with pytest.raises(TrainingError, match=message):
            tiny_trainer("grpo", tmp_path, resume=resume, max_steps=2).fit()
    assert_same(whole, weights_after(tmp_path, "ntp"))


def test_from_a_task_no_selector_starts(tmp_path):
    tiny_trainer("task", tmp_path / "task", max_steps=1).fit()
    source = str(tmp_path / "task" / "tiny")
    with pytest.raises(CheckpointError, match=r"\bdummy\b.*\bntp\b.*trainer\.task_weights"):
        tiny_trainer("ntp", tmp_path / "ntp", resume=source).fit()


def test_changed_options_are_named_on_resuming(tmp_path, caplog):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    tiny_trainer("ntp", tmp_path, max_steps=1, resume=True).fit()
    assert "other options" not in caplog.text
    config = tiny_config("ntp", tmp_path, max_steps=2, lr=0.005, batch_size=5, resume=True)
    config["dataset"]["greedy_labels"]["high"] = 0.3
    build_trainer(config).fit()
    changes = [line.strip() for line in caplog.messages if " (was " in line]
    assert changes == [
        "dataset.greedy_labels.high=0.3 (was 0.4)",
        "trainer.batch_size=5 (was 4)",
        "trainer.lr=0.005 (was 0.01)",
        "trainer.max_steps=2 (was 1)",
    ]


def test_a_checkpoint_without_options_can_be_resumed(tmp_path, caplog):
    tiny_trainer("ntp", tmp_path, max_steps=2).fit()
    (Checkpoints(tmp_path / "tiny").all()[-1] / "options.json").unlink()
    with caplog.at_level("INFO"):
        assert tiny_trainer("ntp", tmp_path, max_steps=3, resume=True).fit().step == 3
    assert "has no options.json" in caplog.text


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
    with pytest.raises(CheckpointError, match=r"/tiny/checkpoints: none\b"):
        tiny_trainer("ntp", tmp_path, resume=True).fit()


def test_a_damaged_task_is_put_aside_too(tmp_path, caplog):
    tiny_trainer("task", tmp_path).fit()
    whole = weights_after(tmp_path, "task")
    newest = Checkpoints(tmp_path / "tiny").all()[-1]
    # The latest task is a second name of this file, hence a new one.
    (newest / "task" / "model.safetensors").unlink()
    (newest / "task" / "model.safetensors").write_bytes(b"not weights")
    tiny_trainer("task", tmp_path, resume=True).fit()
    assert "trying an older checkpoint" in caplog.text
    assert_same(whole, weights_after(tmp_path, "task"))


def test_validating_a_checkpoint_takes_its_task(tmp_path):
    tiny_trainer("task", tmp_path, max_steps=1).fit()
    trainer = tiny_trainer("task", tmp_path, val_only=True, resume=True)
    trainer.fit()
    assert_same(weights_after(tmp_path, "task"), dict(trainer.objective.task.mae.state_dict()))


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
    with pytest.raises(TrainingError, match=r"/tiny .*\bstep \d+\b.*trainer\.resume=True"):
        tiny_trainer("ntp", tmp_path, seed=1).fit()
    assert_same(whole, weights_after(tmp_path, "ntp"))


def test_resuming_where_nothing_was_saved_starts_afresh(tmp_path):
    tiny_trainer("ntp", tmp_path, resume=True, max_steps=1).fit()
    assert torch.isfinite(next(iter(weights_after(tmp_path, "ntp").values()))).all()


def test_another_architecture_is_refused(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    config = tiny_config("ntp", tmp_path, resume=True, max_steps=2)
    config["model"]["gaze_model_config"]["gaze_decoder_config"]["num_hidden_layers"] = 3
    with pytest.raises(CheckpointError, match=r"step-00000001\b.*weights .*layers\.2\b"):
        build_trainer(config).fit()
    config["trainer"] |= {"resume": False, "exp_name": "other"}
    config["trainer"]["gaze_weights"] = str(tmp_path / "tiny" / "checkpoint_latest_gaze")
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        build_trainer(config)


def test_another_optimizer_is_refused(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    for changes, message in (
        ({"optimizer": "sgd"}, r"step-00000001\b.*\btrainer\.optimizer\b"),
        ({"train_task": True, "detach_task": False}, r"step-00000001\b.*: no such\b"),
    ):
        config = tiny_config("ntp", tmp_path, resume=True, max_steps=2, **changes)
        if "train_task" in changes:
            config["task"] = dict(VIDEO_MAE)
        with pytest.raises(CheckpointError, match=message):
            build_trainer(config).fit()


def test_a_resumed_training_takes_new_settings(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=1, optimizer="adamw").fit()
    trainer = tiny_trainer(
        "ntp", tmp_path, max_steps=2, optimizer="adamw", weight_decay=0.25, resume=True
    )
    trainer.fit()
    assert trainer.step.optimizer.param_groups[0]["weight_decay"] == 0.25
