"""Learning from one's own gazes: what the search would have taken in their place."""

import copy

import pytest
import torch

from autogaze.datasets.clip import ClipKey, collate
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.training.factory import build_trainer
from autogaze.training.loader import StepContext
from tests.datasets.pictures import some_frames
from tests.training.tiny import VIDEO_MAE, tiny_config

PYRAMID = PatchPyramid.parse("32+64", 16)


def test_following_labels_gives_the_same_labels():
    frames, searcher = some_frames(3, 64), CanvasSearcher(PYRAMID, softness=0.1)
    labels = searcher.label(frames, [4, 1, 7])
    followed = searcher.follow(frames, labels.ids)
    assert (followed.ids, followed.losses) == (labels.ids, labels.losses)
    assert torch.equal(followed.targets, labels.targets)


def test_targets_name_what_would_have_been_best_after_other_choices():
    frames = some_frames(2, 64, seed=1)
    ids = ((3, 19, 0), (7, 4))
    followed = CanvasSearcher(PYRAMID, softness=1e-6).follow(frames, ids)
    assert followed.ids == ids

    def loss(first, second):
        lengths = torch.tensor([[len(first), len(second)]])
        gaze = Gaze(PYRAMID, torch.tensor([*first, *second]), lengths)
        return float(canvas_losses(frames[None], gaze)[0, 1 if second else 0])

    states = [((), ()), ((3,), ()), ((3, 19), ()), ((3, 19, 0), ()), ((3, 19, 0), (7,))]
    states[3] = (ids[0], ())
    for number, (first, second) in enumerate(states):
        later = number >= 3
        taken = second if later else first
        tried = {
            patch: loss(first, (*second, patch)) if later else loss((*first, patch), ())
            for patch in range(20)
            if patch not in taken
        }
        best = int(followed.targets[number].argmax())
        assert tried[best] == pytest.approx(min(tried.values()), abs=1e-6)
    losses = [value for frame in followed.losses for value in frame]
    after = [loss(ids[0][: n + 1], ()) for n in range(3)]
    after += [loss(ids[0], ids[1][: n + 1]) for n in range(2)]
    assert losses == pytest.approx(after, rel=1e-4)


def own_options(folder, share):
    options = tiny_config("ntp", folder)
    options["algorithm"]["on_policy"] = share
    return options


def rollouts_of(tmp_path, share, *, training=True):
    """What a tiny training would learn from its first batch, and its trainer."""
    trainer = build_trainer(own_options(tmp_path, share))
    clips = collate([trainer.data.train[ClipKey(0, number)] for number in range(4)])
    rollouts = trainer.objective.rollouts(clips, StepContext(0, 0, training=training))
    return rollouts, clips, trainer.objective.model


def test_on_policy_gazes_are_the_models_and_as_long_as_the_labels(tmp_path):
    labelled, clips, _ = rollouts_of(tmp_path, 0.0)
    rollouts, _, model = rollouts_of(tmp_path, 1.0)
    assert torch.equal(rollouts.rows.counts(), labelled.rows.counts())
    video = normalise(clips.frames.float() / 255)
    own = model.generate(video, caps=labelled.rows.counts()).to_gaze()
    assert torch.equal(rollouts.rows.to_gaze().ids, own.ids)
    assert not torch.equal(rollouts.rows.to_gaze().ids, labelled.rows.to_gaze().ids)
    # The losses are those that its gazes really leave.
    last = torch.tensor([rollouts.rows.ends(frame) - 1 for frame in range(clips.frames.shape[1])])
    ends = rollouts.rows.kept[:, last]
    wanted = canvas_losses(clips.frames, own)
    torch.testing.assert_close(rollouts.losses[:, last][ends], wanted[ends], rtol=1e-4, atol=1e-6)
    kept = rollouts.rows.kept
    torch.testing.assert_close(rollouts.targets[kept].sum(1), torch.ones(int(kept.sum())))


def test_some_clips_keep_their_labels_and_validation_all(tmp_path):
    labelled = rollouts_of(tmp_path, 0.0)[0].rows.to_gaze()
    own = rollouts_of(tmp_path, 1.0)[0].rows.to_gaze()
    mixed = rollouts_of(tmp_path, 0.5)[0].rows.to_gaze()
    from_labels = [bool(a == b) for a, b in zip(masks(mixed), masks(labelled), strict=True)]
    from_model = [bool(a == b) for a, b in zip(masks(mixed), masks(own), strict=True)]
    assert all(map(lambda a, b: a or b, from_labels, from_model))
    assert not all(from_labels)
    assert not all(from_model)
    validated = rollouts_of(tmp_path, 1.0, training=False)[0].rows.to_gaze()
    assert torch.equal(validated.ids, labelled.ids)


def test_micro_batches_have_the_same_on_policy_gazes(tmp_path):
    whole, _, _ = rollouts_of(tmp_path, 0.5)
    trainer = build_trainer(own_options(tmp_path / "again", 0.5))
    found = []
    for place in range(4):
        part = collate([trainer.data.train[ClipKey(0, place)]], (place,))
        found += masks(trainer.objective.rollouts(part, StepContext(0, 0)).rows.to_gaze())
    assert found == masks(whole.rows.to_gaze())


def test_two_units_of_losses_are_refused(tmp_path):
    options = own_options(tmp_path, 0.5)
    options["task"] = copy.deepcopy(VIDEO_MAE)
    with pytest.raises(TrainingError, match="canvas_reconstruction"):
        build_trainer(options)
    options["algorithm"]["optimize_task_loss_prediction"] = False
    build_trainer(options)


def masks(gaze):
    return [each.mask.flatten().tolist() for each in gaze]


@pytest.mark.parametrize(("option", "value"), [("on_policy", 1.5), ("on_policy_softness", 0.0)])
def test_impossible_options(tmp_path, option, value):
    options = tiny_config("ntp", tmp_path)
    options["algorithm"][option] = value
    with pytest.raises(TrainingError, match=rf"algorithm\.{option} must"):
        build_trainer(options)
