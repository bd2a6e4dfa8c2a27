"""A step of NTP waits for a GPU where its labels are found and its losses are read, and nowhere else."""

from dataclasses import replace

import torch

from autogaze.training.loader import StepContext
from autogaze.training.rollouts import BatchCounts
from tests.operators import Operators
from tests.training.tiny import tiny_trainer


def test_losses_of_labels_are_computed_without_waiting(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path, max_steps=1)
    objective, (batch, *_) = trainer.objective, next(trainer._micro_batches(0))
    rollouts = objective.rollouts(batch, StepContext(seed=0, step=0))
    # As on a device: what lies there is not what the host has.
    rows = replace(rollouts.rows, kept=rollouts.rows.kept.clone(), ids=rollouts.rows.ids.clone())
    rollouts = replace(rollouts, rows=rows, losses_known=rows.kept)
    with Operators(objective.model, rollouts.frames, rows.ids, rows.kept) as counted:
        losses = objective.values(rollouts, BatchCounts.of([rollouts])).losses
        torch.stack([loss.sum() for loss in losses.values()]).sum().backward()
        assert not counted.waits, counted.waiting
        assert counted.launches > 100
        float(losses["loss"].detach().sum())
    assert counted.waits == 1
