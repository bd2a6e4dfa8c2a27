"""Intervals from whole videos, paired; shares at which a loss is reached."""

import numpy as np
import pytest
import torch

from autogaze.evaluation.answers.intervals import VideoDraws
from autogaze.evaluation.bootstrap import ALL, Resamples, estimate, loss_at, share_reaching
from tests.evaluation.quality.tiny import some_clips


def draw(clips, **options) -> Resamples:
    return Resamples.draw([c.source for c in clips], [c.kind for c in clips], **options)


def test_the_first_row_is_the_sample_itself():
    clips = some_clips({"static": ["a", "b", "b"]})
    resamples = draw(clips, draws=50)
    assert resamples.counts.shape == (51, 3)
    assert (resamples.counts[0] == 1).all()
    values = np.array([1.0, 2, 6])
    assert resamples.means(values, "static")[0] == 3


def test_sources_are_drawn_whole_and_photographs_bring_all_their_clips():
    clips = some_clips({"static": ["a", "a", "b"], "moving": ["p", "q"], "composed": ["p", "q"]})
    counts = draw(clips, draws=200).counts
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 0] + counts[:, 2] == 2).all()  # two videos are drawn from two
    assert (counts[:, 3] == counts[:, 5]).all()  # p filmed, p composed
    assert (counts[:, 3] + counts[:, 4] == 2).all()
    assert {0, 1, 2} == set(counts[1:, 0])


def test_seeds_below_0_draw_too():
    clips = some_clips({"static": ["a", "b", "c"]})
    assert (draw(clips, draws=5, seed=-1).counts == draw(clips, draws=5, seed=-1).counts).all()
    assert len(VideoDraws.draw(["a", "b"], seed=-1, draws=3).counts) == 3


def test_every_kind_counts_the_same_in_all():
    clips = some_clips({"static": ["a", "b", "c"], "moving": ["p", "q"]})
    resamples = draw(clips, draws=10)
    values = np.array([1.0, 2, 3, 10, 20])
    assert resamples.groups == (ALL, "static", "moving")
    assert resamples.means(values, ALL)[0] == (2 + 15) / 2
    assert draw(some_clips({"static": ["a", "b"]})).groups == (ALL,)


def test_the_interval_is_that_of_the_drawn_means():
    names = [f"video-{number}" for number in range(100)]
    resamples = draw(some_clips({"static": names}), draws=2000)
    values = np.random.default_rng(0).normal(5, 2, 100)
    estimate = resamples.interval(resamples.means(values, "static"), "static")
    half = 1.96 * values.std() / 10  # what the central limit theorem says
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.15)
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.15)


def test_pairs_are_surer_than_what_they_are_made_of():
    resamples = draw(some_clips({"static": list("abcdefgh")}))
    hard = np.arange(8.0)  # videos differ a lot, selectors by a little
    one, other = (resamples.means(hard + step, "static") for step in (0.0, 0.1))
    alone = resamples.interval(one, "static")
    difference = resamples.interval(other - one, "static")
    assert alone.high - alone.low > 1
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)


def test_one_source_gives_no_interval():
    resamples = draw(some_clips({"static": ["a", "a"], "moving": ["p", "q"]}))
    values = np.arange(4.0)
    for group, sure in ((ALL, False), ("static", False), ("moving", True)):
        estimate = resamples.interval(resamples.means(values, group), group)
        assert (estimate.low is not None) is sure


def one_draw(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_the_share_needed_lies_between_budgets_on_logarithmic_scales():
    shares, losses = np.array([0.01, 0.1, 0.5]), one_draw(0.4, 0.2, 0.1)
    for target, share in ((0.08**0.5, 0.1**1.5), (0.2, 0.1), (0.4 / 2**0.25, 0.01 * 10**0.25)):
        assert share_reaching(np.array([target]), shares, losses)[0] == pytest.approx(share)


def test_a_loss_that_is_never_or_always_reached():
    shares, losses = np.array([0.01, 0.1]), one_draw(0.4, 0.2)
    assert share_reaching(np.array([0.1]), shares, losses)[0] == np.inf
    assert share_reaching(np.array([0.4]), shares, losses)[0] == 0


def test_loss_at_a_share():
    shares, losses = np.array([0.01, 0.1]), one_draw(0.4, 0.2)
    assert loss_at(0.1, shares, losses)[0] == pytest.approx(0.2)
    assert loss_at(0.1**1.5, shares, losses)[0] == pytest.approx(0.08**0.5)
    assert loss_at(0.01, shares, losses)[0] == pytest.approx(0.4)
    assert loss_at(0.2, shares, losses) is None
    assert loss_at(0.005, shares, losses) is None


def test_intervals_come_from_whole_videos():
    video = torch.tensor([0, 0, 0, 1, 1, 1])
    alike = estimate(torch.tensor([0.0, 1, 2, 0, 1, 2]), video)
    assert (alike.mean, alike.low, alike.high) == (1, 1, 1)  # clips differ, videos do not
    apart = estimate(torch.tensor([0.0, 0, 0, 1, 1, 1]), video)
    assert (apart.mean, apart.low, apart.high) == (0.5, 0, 1)
    alone = estimate(torch.tensor([0.0, 1]), torch.tensor([0, 0]))
    assert (alone.low, alone.high) == (None, None)
