"""The fast searches find what the naive one finds."""

import math

import numpy as np
import pytest
import torch

from autogaze.errors import GeometryError, TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import GazeBudget
from autogaze.labelling.search import CanvasSearcher, VideoMAESearcher, gain_shares
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.selectors.greedy import Greedy
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.utils.seeding import seeded
from tests.labelling.naive import naive_labels
from tests.tasks.material import TINY, some_clips, tiny_mae, tiny_siglip

PYRAMID = TINY.pyramid


def some_frames(seed=0, frames=3):
    return (some_clips(1, frames, seed=seed)[0] * 255).round().to(torch.uint8)


def metric(loss_type="l1", weights="1"):
    networks = {f"siglip2.{name}": value for name, value in tiny_siglip().state_dict().items()}
    losses = FrameLosses.parse(loss_type, weights, networks)
    return VideoMAETask(tiny_mae(), losses)


def assert_same(found, wanted):
    assert found.ids == wanted.ids
    for some, others in zip(found.losses, wanted.losses, strict=True):
        assert some == pytest.approx(others, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_canvas_search_is_the_naive_one(seed):
    frames, counts = some_frames(seed), [4, 1, 7]
    found = CanvasSearcher(PYRAMID).label(frames, counts)
    assert_same(found, naive_labels(CanvasReconstruction(PYRAMID), frames / 255, counts))


def test_canvas_losses_are_those_of_the_canvas():
    frames, counts = some_frames(frames=4), [5, 2, 3, 1]
    found = CanvasSearcher(PYRAMID).label(frames, counts)
    gaze = Gaze(PYRAMID, torch.tensor(sum(found.ids, ())), torch.tensor([counts]))
    wanted = canvas_losses(frames[None], gaze)[0].tolist()
    assert [losses[-1] for losses in found.losses] == pytest.approx(wanted, rel=1e-4)


def test_the_canvas_search_is_the_greedy_selector():
    pyramid = PatchPyramid()
    frames = (some_clips(1, 2, 224)[0] * 255).round().to(torch.uint8)
    found = CanvasSearcher(pyramid).label(frames, [9, 9])
    gaze = Greedy(pyramid).select(frames[None], ratio=9.5 / 265)
    assert [gaze.frame(0, frame).tolist() for frame in range(2)] == [list(x) for x in found.ids]


@pytest.mark.parametrize("seed", range(2))
def test_the_video_mae_search_is_the_naive_one(seed):
    task, frames, counts = metric(), some_frames(seed), [2, 1, 3]
    wanted = naive_labels(task, frames / 255, counts)
    for batch in (1, 7, 64):
        assert_same(VideoMAESearcher(task, batch).label(frames, counts), wanted)


def test_so_it_is_with_feature_losses():
    task, frames, counts = metric("l1+siglip2", "1+0.3"), some_frames(frames=2), [1, 2]
    found = VideoMAESearcher(task).label(frames, counts)
    assert_same(found, naive_labels(task, frames / 255, counts))


def test_every_patch_can_be_chosen():
    frames = some_frames(frames=2)
    everything = [PYRAMID.num_patches] * 2
    for searcher in (CanvasSearcher(PYRAMID), VideoMAESearcher(metric())):
        found = searcher.label(frames, everything)
        assert [sorted(ids) for ids in found.ids] == [list(range(PYRAMID.num_patches))] * 2


def test_more_frames_than_the_model_knows():
    with pytest.raises(GeometryError, match=r"\b6\b"):
        VideoMAESearcher(metric()).label(some_frames(frames=7), [1] * 7)


def test_losses_that_are_not_finite_are_refused():
    task = metric()
    task.mae.decoder.decoder_pred.bias.data.fill_(float("nan"))
    with pytest.raises(TrainingError):
        VideoMAESearcher(task).label(some_frames(frames=1), [1])


def test_metrics_have_identities():
    one, same, other = (VideoMAESearcher(metric()) for _ in range(3))
    assert one.identity == same.identity
    assert "l1 1" in one.identity
    other.task.mae.decoder.mask_token.data += 1
    assert other.identity != one.identity
    assert VideoMAESearcher(metric(), dtype=torch.bfloat16).identity != one.identity
    with pytest.raises(TrainingError, match=r"\b1\b.*\b0\b"):
        VideoMAESearcher(metric(), 0)


def test_half_precision_comes_near():
    task, frames, counts = metric(), some_frames(), [2, 2, 2]
    exact = VideoMAESearcher(task).label(frames, counts)
    rough = VideoMAESearcher(task, dtype=torch.bfloat16).label(frames, counts)
    for some, others in zip(rough.losses, exact.losses, strict=True):
        assert some == pytest.approx(others, rel=0.1)


def test_budgets():
    budget = GazeBudget()
    drawn = [budget.draw(16, 265, seeded("test", number)) for number in range(400)]
    means = torch.tensor(drawn).float().mean(1) / 265
    # Clamping and rounding down leave a little less than was drawn.
    assert means.min() > 0.015
    assert means.max() <= 0.2
    # An exponential of rate 10 restricted to [0.02, 0.2] has this mean.
    assert float(means.mean()) == pytest.approx(0.0842, abs=0.01)
    shares = torch.tensor(drawn).float()
    first, later = shares[:, 0].mean(), shares[:, 1:].mean()
    assert float(first / later) == pytest.approx(10 / 3, rel=0.15)
    assert shares.min() >= 1
    assert shares.max() <= 265
    assert budget.draw(16, 265, seeded("test", 3)) == drawn[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0}, "0 < low <= high <= 1, got 0 and 0.2"),
        ({"low": 0.3}, "got 0.3 and 0.2"),
        ({"high": 2}, "got 0.02 and 2"),
        ({"later": 0}, "must be positive"),
        ({"rate": math.nan}, "must be positive"),
        ({"first": math.inf}, "must be positive"),
    ],
)
def test_bad_budgets(options, message):
    with pytest.raises(TrainingError, match=message):
        GazeBudget(**options)


def test_soft_labels_say_how_good_every_patch_would_be():
    frames, counts = some_frames(frames=2), [4, 6]
    plain = CanvasSearcher(PYRAMID).label(frames, counts)
    soft = CanvasSearcher(PYRAMID, softness=0.2).label(frames, counts)
    assert plain.targets is None
    assert (soft.ids, soft.losses) == (plain.ids, plain.losses)
    assert soft.targets.shape == (10, PYRAMID.num_patches)
    torch.testing.assert_close(soft.targets.sum(1), torch.ones(10))
    chosen = torch.tensor(sum(soft.ids, ()))
    assert torch.equal(soft.targets.argmax(1), chosen)
    taken = soft.targets[torch.arange(1, 4)[:, None], chosen[:3]].tril()
    assert not taken.any(), "patches that were taken before are worth nothing"
    hard = CanvasSearcher(PYRAMID, softness=1e-6).label(frames, counts).targets
    torch.testing.assert_close(
        hard, torch.nn.functional.one_hot(chosen, PYRAMID.num_patches).float()
    )


def test_shares_follow_the_formula():
    gains = torch.tensor([4.0, 2.0, -np.inf, 4.0, -1.0], dtype=torch.float64)
    weights = np.exp(-np.array([0.0, 2.0, np.inf, 0.0, 5.0]) / (0.5 * 4))
    np.testing.assert_allclose(gain_shares(gains, 0.5), weights / weights.sum())
    assert gain_shares(torch.tensor([0.0, -np.inf, 0.0]), 0.5).tolist() == [0.5, 0, 0.5]
    # Far below the best: as little as there is, and what was taken nothing at all.
    shares = gain_shares(torch.tensor([[1e6, 0.0, -np.inf]], dtype=torch.float64), 1e-4)
    assert 0 < shares[0, 1] < 1e-25
    assert shares[0, 2] == 0


def test_clips_searched_together_have_the_same_labels(monkeypatch):
    searcher, sizes, follow = CanvasSearcher(PYRAMID, softness=0.1), [], CanvasSearcher.follow_clips
    lengths, counts = (3, 2, 3, 3), ([4, 1, 7], [2, 5], [1, 1, 1], [3, 9, 2])
    clips = [some_frames(seed, frames=length) for seed, length in enumerate(lengths)]
    alone = [searcher.label(*each) for each in zip(clips, counts, strict=True)]

    def followed(self, frames, ids):
        sizes.append(len(frames))
        return follow(self, frames, ids)

    monkeypatch.setattr(CanvasSearcher, "follow_clips", followed)
    together = searcher.label_clips(clips, counts)
    assert sizes == [3, 1]
    for one, other in zip(together, alone, strict=True):
        assert (one.ids, one.losses) == (other.ids, other.losses)
        assert torch.equal(one.targets, other.targets)
    assert searcher.label_clips([], []) == []


def test_only_a_gpu_is_given_many_clips():
    for device in (None, torch.device("cpu"), torch.device("mps")):
        assert CanvasSearcher(PYRAMID, device=device).at_once == 1
    assert CanvasSearcher(PYRAMID, device=torch.device("cuda")).at_once > 1
