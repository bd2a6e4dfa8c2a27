"""Trainings that should be the same are."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autogaze.errors import TrainingError
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from tests.training.tiny import (
    RECIPES,
    assert_close,
    assert_same,
    tiny_config,
    tiny_trainer,
    weights_after,
)

ROOT = Path(__file__).resolve().parents[2]
SGD = {"optimizer": "sgd", "momentum": 0.9}
"""Adam turns rounding errors of tiny gradients into steps of full size."""


def losses(folder):
    entries = read_metrics(folder / "tiny" / "metrics.jsonl")
    names = ["loss", "task_loss", "reward", "gazes", "val/algorithm_loss"]
    names += ["val/loss", "val/shuffled_loss", "val/random_loss"]
    return [[entry.get(name, 0.0) for name in names] for entry in entries]


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_train_as_the_whole_batch_does(kind, micro_batch, tmp_path):
    tiny_trainer(kind, tmp_path / "whole", **SGD).fit()
    changes = {"per_gpu_max_batch_size": micro_batch}
    tiny_trainer(kind, tmp_path / "parts", **SGD, **changes).fit()
    assert_close(weights_after(tmp_path / "whole", kind), weights_after(tmp_path / "parts", kind))
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "whole")), torch.tensor(losses(tmp_path / "parts"))
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """On a machine without a GPU, where nobody said that the processor is wanted."""
    options = {**SGD, "kinds": list(RECIPES), "max_steps": 2, "val_nsteps": 2, "val_pictures": 0}
    alone = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(port), "-m", "tests.training.run"]
    done = subprocess.run(
        [*command, str(tmp_path / "two"), json.dumps({**options, "device": "auto"})],
        env={**os.environ, **alone},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in options.pop("kinds"):
        tiny_trainer(kind, tmp_path / "one" / kind, **options).fit()
        one, two = tmp_path / "one" / kind, tmp_path / "two" / kind
        assert_close(weights_after(one, kind), weights_after(two, kind))
        torch.testing.assert_close(
            torch.tensor(losses(one)), torch.tensor(losses(two)), rtol=1e-4, atol=1e-5
        )


def test_processes_that_are_not_joined_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("os.environ", {**os.environ, "WORLD_SIZE": "2"})  # Accelerate adds to it
    with pytest.raises(TrainingError, match=r"2 processes were started .* joined (1|none)"):
        tiny_trainer("ntp", tmp_path, device="auto")


def test_worker_processes_change_nothing(tmp_path):
    for workers in (0, 2):
        tiny_trainer("ntp", tmp_path / str(workers), num_workers=workers, max_steps=2).fit()
    assert_same(weights_after(tmp_path / "0", "ntp"), weights_after(tmp_path / "2", "ntp"))


def test_another_seed_trains_otherwise(tmp_path):
    for seed in (0, 1):
        tiny_trainer("ntp", tmp_path / str(seed), seed=seed, max_steps=1).fit()
    first, second = (weights_after(tmp_path / str(seed), "ntp") for seed in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_group_of_one_leaves_the_policy_as_it_is(tmp_path):
    config = tiny_config("grpo", tmp_path)
    config["algorithm"] |= {"group_size": 1, "optimize_task_loss_prediction": False}
    trainer = build_trainer(config)
    before = {name: value.clone() for name, value in trainer.objective.model.state_dict().items()}
    trainer.fit()
    assert_same(before, trainer.objective.model.state_dict())


def test_validation_does_not_touch_training(tmp_path):
    for name, steps in (("without", 0), ("with", 1)):
        tiny_trainer("task", tmp_path / name, max_steps=2, val_nsteps=steps).fit()
    assert_same(
        weights_after(tmp_path / "without", "task"), weights_after(tmp_path / "with", "task")
    )
