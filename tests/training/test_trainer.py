"""What options do to a training."""

import pytest
import torch

from autogaze.errors import AutoGazeError
from autogaze.trainer import make_accelerator
from autogaze.training.config import TrainerOptions
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from tests.training.tiny import RECIPES, VIDEO_MAE, tiny_config, tiny_trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.objective.model.state_dict().items()}


def changed(trainer, before):
    after = trainer.objective.model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("kind", RECIPES)
def test_half_precision_trains(kind, tmp_path):
    tiny_trainer(kind, tmp_path, mixed_precision="bf16", max_steps=2, val_nsteps=2).fit()
    entries = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in entries)


def test_the_vision_stem_can_have_a_learning_rate_of_its_own(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path, vision_lr_factor=0.0)
    before = weights(trainer)
    trainer.fit()
    names = changed(trainer, before)
    assert names
    assert not any("vision_model" in name for name in names)


def test_gradients_are_clipped(tmp_path):
    sgd = {"optimizer": "sgd", "lr": 1.0, "lr_schedule": "constant", "max_steps": 1}
    trainer = tiny_trainer("ntp", tmp_path, max_grad_norm=0.5, **sgd)
    before = weights(trainer)
    trainer.fit()
    after = trainer.objective.model.state_dict()
    moved = sum(float((before[name] - after[name]).square().sum()) for name in before) ** 0.5
    (entry,) = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert entry["gradient_norm"] > 0.5
    assert moved == pytest.approx(0.5, rel=1e-3)


def test_selector_and_task_can_learn_together(tmp_path):
    config = tiny_config("grpo", tmp_path, train_task=True, detach_task=False)
    config["task"] = dict(VIDEO_MAE)
    trainer = build_trainer(config)
    before, mae = weights(trainer), trainer.objective.task.mae
    mask = mae.decoder.decoder_pred.weight.clone()
    trainer.fit()
    assert changed(trainer, before)
    assert not torch.equal(mask, mae.decoder.decoder_pred.weight)
    entries = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert all({"loss", "task_loss", "reward"} <= entry.keys() for entry in entries)


def test_training_the_task_leaves_the_selector_as_it_is(tmp_path):
    trainer = tiny_trainer("task", tmp_path)
    before = weights(trainer)
    trainer.fit()
    assert not changed(trainer, before)


def test_a_part_of_an_epoch_is_a_length(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path, max_steps=None, n_epochs=0.5)
    assert trainer.num_steps == 2  # 5 of 10 clips in batches of 4
    assert tiny_trainer("ntp", tmp_path, max_steps=None, n_epochs=2.0).num_steps == 5


def test_a_gpu_that_was_asked_for_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AutoGazeError, match="no CUDA GPU"):
        make_accelerator(TrainerOptions(exp_folder=str(tmp_path), device="cuda"))
