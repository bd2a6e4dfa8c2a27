"""Validation says what a gaze is worth, and how much of that is about the clip."""

from pathlib import Path

import pytest
import torch

from autogaze.gaze import Gaze
from autogaze.labelling.search import CanvasSearcher
from autogaze.tasks.losses import LOSSES
from autogaze.training.factory import build_trainer
from autogaze.training.logging import read_metrics
from autogaze.training.rollouts import random_gaze, shuffled
from autogaze.training.validation import Validation
from tests.tasks.material import some_gaze
from tests.training.tiny import SELF, assert_same, tiny_config, tiny_trainer

CONTROLS = {"val/shuffled_loss", "val/random_loss"}


def validation(kind, folder, **options):
    """Of a tiny training, and what it makes ready."""
    trainer = tiny_trainer(kind, folder, val_nsteps=1, **options)
    return Validation(trainer.objective, trainer.data.val, trainer.options, trainer.accelerator)


def ids(gaze):
    return [clip.ids.tolist() for clip in gaze]


def test_shuffled_gazes_are_those_of_other_clips(tmp_path):
    pyramid = validation("ntp", tmp_path).objective.model.pyramid
    for clips in (2, 3, 5):
        gaze = some_gaze(pyramid, clips=clips, frames=2)
        swapped = shuffled(gaze)
        assert sorted(ids(swapped)) == sorted(ids(gaze))
        assert sorted(swapped.lengths.tolist()) == sorted(gaze.lengths.tolist())
        assert all(a != b for a, b in zip(ids(swapped), ids(gaze), strict=True))


def test_random_gazes_are_as_long_and_follow_their_seeds(tmp_path):
    gaze = some_gaze(validation("ntp", tmp_path).objective.model.pyramid, clips=3, frames=2)

    def draw(seeds, lengths):
        return random_gaze(
            gaze.pyramid, lengths, [torch.Generator().manual_seed(seed) for seed in seeds]
        )

    drawn = draw((1, 2, 3), gaze.lengths)
    assert drawn.lengths.equal(gaze.lengths)
    assert ids(draw((3, 2), gaze.lengths[[2, 1]])) == ids(drawn)[:0:-1]


def patched(monkeypatch, choose):
    """The selector replaced by something whose worth is known."""
    monkeypatch.setattr(Validation, "_gaze", lambda self, batch, setting: choose(self, batch))


def test_a_content_blind_prior_shows(tmp_path, monkeypatch):
    """Gazes that are alike everywhere cost the same when clips swap them."""

    def blind_gaze(self, batch):
        frames = torch.arange(20).expand(len(batch), 2, 20) < 4  # all of the coarse scale
        return Gaze.from_mask(self.objective.model.pyramid, frames)

    patched(monkeypatch, blind_gaze)
    metrics = validation("ntp", tmp_path).run()
    assert metrics["val/shuffled_loss"] == pytest.approx(metrics["val/loss"])
    assert metrics["val/random_loss"] > 1.2 * metrics["val/loss"]


def test_shuffling_greedy_gazes_raises_the_loss(tmp_path, monkeypatch):
    def greedy(self, batch):
        searcher = CanvasSearcher(self.objective.model.pyramid)
        labels = [searcher.label(frames, [5, 5]) for frames in batch.frames]
        chosen = [id for label in labels for frame in label.ids for id in frame]
        return Gaze(searcher.pyramid, torch.tensor(chosen), torch.full((len(batch), 2), 5))

    patched(monkeypatch, greedy)
    metrics = validation("ntp", tmp_path, val_clips=8).run()
    assert metrics["val/shuffled_loss"] > 1.02 * metrics["val/loss"]
    assert metrics["val/gazing_ratio"] == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["ntp", "grpo"])
def test_controls_stand_beside_a_selectors_loss(kind, tmp_path):
    metrics = validation(kind, tmp_path, val_ratios=[0.2, 0.5]).run()
    for suffix in ("@0.2", "@0.5"):
        assert {name + suffix for name in {"val/loss", *CONTROLS}} <= metrics.keys()
    assert {"val/loss", "val/gazing_ratio", *CONTROLS} <= metrics.keys()
    assert ("val/algorithm_loss" in metrics) == (kind == "ntp")
    assert metrics["val/random_loss@0.5"] < metrics["val/random_loss@0.2"]


def test_random_gazes_need_no_control(tmp_path):
    metrics = validation("task", tmp_path, val_ratios=[0.2]).run()
    assert set(metrics) == {"val/loss", "val/gazing_ratio", "val/loss@0.2"}


def test_terms_of_a_loss_are_logged_beside_it(tmp_path, monkeypatch):
    class Squares(torch.nn.Module):
        def forward(self, made, real):
            return (made - real).square().mean((1, 2, 3))

    monkeypatch.setitem(LOSSES, "siglip2", lambda _: Squares())
    config = tiny_config("task", tmp_path, val_nsteps=1, val_ratios=[0.2])
    terms = {"loss_type": "l1+siglip2", "loss_weights": "1+0.5"}
    config["task"] = dict(config["task"])
    config["task"]["recon_model_config"] = config["task"]["recon_model_config"] | terms
    trainer = build_trainer(config)
    metrics = Validation(
        trainer.objective, trainer.data.val, trainer.options, trainer.accelerator
    ).run()
    for suffix in ("", "@0.2"):
        l1, squares, loss = (metrics[f"val/{name}{suffix}"] for name in ("l1", "siglip2", "loss"))
        assert 0 < squares < l1
        assert loss == pytest.approx(l1 + 0.5 * squares, rel=1e-4)


@pytest.mark.parametrize(("clips", "size"), [(1, 4), (2, 1), (3, 2), (5, 4), (8, 3), (9, 4)])
def test_micro_batches_let_clips_swap(clips, size, tmp_path):
    made = validation("ntp", tmp_path, val_clips=clips, per_gpu_max_batch_size=size)
    parts = [batch.indices for batch in made._batches()]
    assert [place for part in parts for place in part] == list(range(clips))
    sizes = [len(part) for part in parts]
    assert min(sizes) >= min(2, clips)
    assert max(sizes) <= max(3, size)
    metrics = made.run()
    assert ("val/shuffled_loss" in metrics) == (clips > 1)


def test_clips_are_drawn_from_the_whole_dataset_and_stay_the_same(tmp_path):
    def numbers(**options):
        return [item.key.number for item in validation("ntp", tmp_path, **options).items]

    everything = numbers(val_clips=99)
    assert sorted(everything) == list(range(10))
    assert everything != sorted(everything), "neighbours may be of one video"
    assert numbers(val_clips=4, seed=5) == everything[:4]


def test_only_validating_trains_and_saves_nothing(tmp_path):
    tiny_trainer("ntp", tmp_path / "trained", max_steps=1).fit()
    weights = str(tmp_path / "trained" / "tiny" / "checkpoint_latest_gaze")
    trainer = tiny_trainer("ntp", tmp_path, val_only=True, val_nsteps=0, gaze_weights=weights)
    before = {name: value.clone() for name, value in trainer.objective.model.state_dict().items()}
    trainer.fit()
    assert_same(before, trainer.objective.model.state_dict())
    folder = tmp_path / "tiny"
    (entry,) = read_metrics(folder / "validation" / "metrics.jsonl")
    assert {"val/loss", "val/gazing_ratio", *CONTROLS} <= entry.keys()
    assert not (folder / "checkpoints").exists()


def test_a_checkpoint_can_be_validated(tmp_path):
    """`val_only` with `resume`, and with `gaze_weights`, measures what training measured last."""
    tiny_trainer("ntp", tmp_path, max_steps=2, val_nsteps=2).fit()
    path = tmp_path / "tiny" / "metrics.jsonl"
    last = read_metrics(path)[-1]
    assert "val/loss" in last
    before = path.read_text()
    tiny_trainer("ntp", tmp_path, max_steps=2, val_only=True, resume=True).fit()
    own = Path("tiny", "validation", "metrics.jsonl")
    assert read_metrics(tmp_path / own) == [last]
    weights = str(tmp_path / "tiny" / "checkpoint_latest_gaze")
    tiny_trainer("ntp", tmp_path / "b", val_only=True, gaze_weights=weights, seed=3).fit()
    (entry,) = read_metrics(tmp_path / "b" / own)
    assert entry["val/gazing_ratio"] == last["val/gazing_ratio"]
    tiny_trainer("ntp", tmp_path, val_only=True, gaze_weights=weights).fit()
    assert [entry["step"] for entry in read_metrics(tmp_path / own)] == [2, 0]
    assert path.read_text() == before, "what training wrote stays as it is"


def test_a_threshold_stops_validation_too(tmp_path):
    config = tiny_config("grpo", tmp_path, val_nsteps=1)
    config["model"] |= SELF | {"has_task_loss_requirement_during_inference": True}
    limits = dict(SELF["task_loss_requirement_config"], fixed={"task_loss_requirement": 1e9})
    config["model"]["task_loss_requirement_config"] = limits
    trainer = build_trainer(config)
    made = Validation(trainer.objective, trainer.data.val, trainer.options, trainer.accelerator)
    assert made.run()["val/gazing_ratio"] == pytest.approx(1 / 20)
