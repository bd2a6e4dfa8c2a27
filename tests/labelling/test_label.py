"""Labels of whole batches: those of clip by clip, wherever and whenever they are searched."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from autogaze.datasets.clip import (
    ClipKey,
    GazeLabels,
    LabelRequest,
    TrainingClip,
    UnreadableClip,
    collate,
)
from autogaze.datasets.mixture import MixedClips
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GreedyLabelled, GreedyOptions, with_labels
from autogaze.labelling.search import CanvasSearcher
from autogaze.training import loader
from autogaze.training.factory import build_trainer
from autogaze.training.loader import StepSampler, make_loader
from tests.selectors.clips import random_clips
from tests.training.tiny import tiny_config

PYRAMID = PatchPyramid((8, 16), 4)
GIVEN = GazeLabels(((3,), (1, 2)), ((0.5,), (0.25, 0.125)))


class Drawn(Dataset):
    """Six clips of two frames; some are unreadable, some have labels of their own."""

    def __init__(self, seed=0, labels=None, unreadable=()):
        frames = random_clips(PYRAMID, 6, 2, seed)
        self.frames = (frames * 255).round().to(torch.uint8)
        self.labels, self.unreadable = labels, unreadable

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        number = ClipKey.of(key).number
        if number in self.unreadable:
            return UnreadableClip(f"clip {number}", "broken")
        return TrainingClip(self.frames[number], f"clip {number}", self.labels)


def mixture():
    """Clips with hard, with soft and with given labels."""
    hard = GreedyLabelled(Drawn(0, unreadable=(2,)), PYRAMID, GreedyOptions(high=0.5), seed=1)
    soft = GreedyLabelled(Drawn(1), PYRAMID, GreedyOptions(high=0.5, softness=0.1), seed=2)
    return MixedClips([hard, soft, Drawn(2, labels=GIVEN)])


def equal(one, other):
    targets = [each.targets for each in (one, other)]
    return (one.ids, one.losses) == (other.ids, other.losses) and (
        targets[0].equal(targets[1])
        if isinstance(targets[0], torch.Tensor)
        else targets == [None] * 2
    )


def items(clips, epoch=0):
    return [clips[ClipKey(epoch, number)] for number in range(len(clips))]


def labels_alone(clip):
    if not isinstance(clip.labels, LabelRequest):
        return clip.labels
    asked = clip.labels
    return CanvasSearcher(asked.pyramid, asked.softness).label(clip.frames, asked.counts)


@pytest.mark.parametrize("epoch", [0, 3])
def test_labels_of_a_batch_are_those_of_its_clips(epoch):
    clips = mixture()
    read = [clip for clip in items(clips, epoch) if isinstance(clip, TrainingClip)]
    alone = [labels_alone(clip) for clip in read]
    assert {labels.targets is None for labels in alone} == {True, False}
    batch = collate(items(clips, epoch))
    assert len(batch) == 17
    assert batch.labels is None
    assert {type(one) for one in batch.pending} == {GazeLabels, LabelRequest}
    done = with_labels(batch)
    assert done.pending is None
    assert all(equal(*pair) for pair in zip(done.labels, alone, strict=True))
    assert torch.equal(done.frames, batch.frames)
    assert (done.names, done.unreadable) == (batch.names, batch.unreadable)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_for_a_cpu_labels_whole_batches(monkeypatch, workers):
    clips = GreedyLabelled(Drawn(unreadable=(4,)), PYRAMID, GreedyOptions(high=0.5, softness=0.1))
    sampler = StepSampler(len(clips), 6, 3, 0, first=1, last=3)
    expected = [with_labels(collate([clips[item.key] for item in part])) for part in sampler]
    searches, search = [], CanvasSearcher.follow_clips
    monkeypatch.setattr(
        CanvasSearcher,
        "follow_clips",
        lambda self, frames, ids: searches.append(len(frames)) or search(self, frames, ids),
    )
    batches = list(make_loader(clips, sampler, workers))
    if not workers:  # one search per batch, and none per clip
        assert searches == [len(batch) for batch in batches]
    assert [batch.names for batch in batches] == [batch.names for batch in expected]
    for batch, wanted in zip(batches, expected, strict=True):
        assert all(equal(*pair) for pair in zip(batch.labels, wanted.labels, strict=True))


def test_a_loader_for_a_gpu_leaves_them_to_it(monkeypatch):
    """No worker searches; the batch's labels are searched where its frames are."""
    clips = GreedyLabelled(Drawn(), PYRAMID, GreedyOptions(high=0.5))
    sampler = StepSampler(len(clips), 6, 6, 0, first=0, last=1)
    batches = make_loader(clips, sampler, 0, device="cuda")
    assert batches.pin_memory
    [part] = sampler
    with monkeypatch.context() as patch:
        patch.setattr(CanvasSearcher, "follow_clips", None)
        batch = batches.collate_fn([batches.dataset[item] for item in part])
    assert [type(one) for one in batch.pending] == [LabelRequest] * 6
    devices = []
    follow = CanvasSearcher.follow_clips

    def followed(self, frames, ids):
        devices.append(frames.device.type)
        return follow(self, frames, ids)

    monkeypatch.setattr(CanvasSearcher, "follow_clips", followed)
    wanted = with_labels(collate([clips[item.key] for item in part])).labels
    devices.clear()
    assert with_labels(batch).labels == wanted
    assert devices == ["cpu"]


def test_batches_without_requests_are_as_they_were():
    batch = collate([TrainingClip(Drawn().frames[0], "a", GIVEN)])
    assert with_labels(batch) is batch
    assert batch.labels == (GIVEN,)
    unlabelled = replace(GIVEN, losses=())
    mixed = collate(
        [
            TrainingClip(Drawn().frames[0], "a", unlabelled),
            TrainingClip(Drawn().frames[1], "b", LabelRequest(PYRAMID, (1, 2))),
            TrainingClip(Drawn().frames[2], "c"),
        ]
    )
    assert (mixed.labels, mixed.pending) == (None, None)


def test_a_step_and_a_validation_are_the_same_with_requests(monkeypatch, tmp_path):
    """As on a GPU, where no loader labels."""
    monkeypatch.setattr("autogaze.training.logging.draw_curves", lambda *_: False)
    config = tiny_config("ntp", tmp_path, val_nsteps=3, max_steps=3, val_pictures=0)
    results = []
    for collates in (loader._collate_and_label, loader._collate):
        monkeypatch.setattr(loader, "_collate_and_label", collates)
        config["trainer"]["exp_name"] = collates.__name__
        trainer = build_trainer(config)
        trainer.fit()
        lines = (trainer.folder / "metrics.jsonl").read_text().splitlines()
        metrics = {k: v for line in map(json.loads, lines) for k, v in line.items()}
        results.append((weights_of(trainer), metrics["loss"], metrics["val/algorithm_loss"]))
    assert results[0] == results[1]


def weights_of(trainer):
    return [parameter.detach().tolist() for parameter in trainer.objective.model.parameters()]
