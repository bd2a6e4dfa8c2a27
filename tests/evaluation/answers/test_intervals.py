"""Intervals from resampling videos: they cover the truth as often as they say."""

import numpy as np
import pytest

from autogaze.evaluation.answers.intervals import (
    VideoDraws,
    expanded_tail,
    student_cdf,
    student_quantile,
)


def coverage(num_videos: int, accuracy: float, *, paired: bool = False, draws: int = 1000) -> float:
    """How often of 1,000 times the interval holds the true accuracy, or the true difference of two conditions.

    Videos have 1 to 6 questions, and an accuracy of their own with a correlation of 0.2. Of two
    conditions, the second is wrong where the first is, and in a tenth of the other cases.
    """
    rng = np.random.default_rng([num_videos, round(100 * accuracy), paired])
    counts = VideoDraws.draw([str(v) for v in range(num_videos)], 1, draws).counts
    hits = 0
    for _ in range(1000):
        video = np.repeat(np.arange(num_videos), rng.integers(1, 7, num_videos))
        of_video = rng.beta(4 * accuracy, 4 * (1 - accuracy), num_videos)
        values = (rng.random(len(video)) < of_video[video]).astype(float)
        truth = accuracy
        if paired:
            values -= values * (rng.random(len(video)) > 0.1)
            truth = 0.1 * accuracy
        found = VideoDraws(counts, video).mean(values)
        hits += (
            found.low is not None and found.high is not None and found.low <= truth <= found.high
        )
    return hits / 1000


@pytest.mark.parametrize("num_videos", [20, 77])
def test_the_interval_covers_the_true_accuracy(num_videos: int) -> None:
    assert 0.93 <= coverage(num_videos, 0.45, draws=2000) <= 0.97


@pytest.mark.parametrize(("num_videos", "accuracy"), [(10, 0.7), (15, 0.9)])
def test_with_few_videos_and_high_accuracies(num_videos: int, accuracy: float) -> None:
    assert 0.93 <= coverage(num_videos, accuracy) <= 0.97


def test_paired_differences_are_covered() -> None:
    assert 0.93 <= coverage(40, 0.6, paired=True) <= 0.97


def test_questions_of_one_video_are_not_drawn_by_themselves() -> None:
    """Ten questions about each of 20 videos, all alike, say no more than one about each."""
    right = np.arange(20) % 3 > 0
    one = VideoDraws.draw([f"{v:02}" for v in range(20)]).mean(right)
    ten = VideoDraws.draw([f"{v:02}" for v in range(20) for _ in range(10)]).mean(right.repeat(10))
    assert (one.mean, one.low, one.high) == pytest.approx((ten.mean, ten.low, ten.high))
    assert one.mean == pytest.approx(13 / 20)
    single = VideoDraws.draw([str(v) for v in range(200)]).mean(right.repeat(10))
    assert single.high - single.low < 0.5 * (one.high - one.low)


def test_differences_are_paired() -> None:
    """Two conditions that differ in one video differ by little, however uncertain both are."""
    rng = np.random.default_rng(0)
    videos = [str(v) for v in range(40) for _ in range(3)]
    first = (rng.random(120) < 0.5).astype(float)
    second = first.copy()
    second[:3] = 1 - second[:3]
    draws = VideoDraws.draw(videos)
    alone, both = draws.mean(first), draws.mean(second - first)
    assert both.high - both.low < 0.5 * (alone.high - alone.low)


def test_part_of_the_questions() -> None:
    values = np.array([1, 0, 1, 1, 0, 0], float)
    draws = VideoDraws.draw(["a", "a", "b", "b", "c", "c"])
    where = np.array([True, True, True, True, False, False])
    assert draws.mean(values, where).mean == 0.75
    assert draws.mean(values, where).low is not None
    assert draws.mean(values, where & (np.arange(6) < 2)).low is None  # of one video
    assert draws.mean(np.ones(6)).low is None  # all right: nothing to resample
    assert draws.mean(np.ones(6)).mean == 1
    assert VideoDraws.draw(["a"] * 6).mean(values).low is None


def test_draws_are_seeded() -> None:
    videos = [str(v) for v in range(10)]
    again = VideoDraws.draw(videos).counts
    assert np.array_equal(VideoDraws.draw(videos).counts, again)
    assert not np.array_equal(VideoDraws.draw(videos, seed=1).counts, again)
    assert again.shape == (2000, 10)
    assert (again.sum(1) == 10).all()


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (76, 1.9917)],
)
def test_student(degrees: int, quantile: float) -> None:
    """Quantiles of printed tables."""
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)
    assert student_cdf(0, degrees) == 0.5


def test_tails_are_wider_with_few_videos() -> None:
    tails = [expanded_tail(n) for n in (2, 5, 10, 77, 1000)]
    assert tails == sorted(tails)
    assert tails[3] == pytest.approx(0.0224, abs=2e-4)
    assert tails[4] == pytest.approx(0.025, abs=5e-4)
