"""Means over questions and their 95 % intervals, from resampling whole videos.

What is uncertain is which videos were taken; questions about one video are too alike to be drawn
by themselves. Every draw takes as many videos as there are, with replacement, each with all its
questions, and all figures use the same draws, so that differences between conditions are paired.

The plain percentiles 2.5 and 97.5 of the draws cover too little where videos are few (90 % at 10, 92 %
at 20): the draws vary as if the variance were divided by V videos and not by V - 1, their tails are
lighter than Student's, and near 0 or 1 their distribution is skewed. Therefore two corrections:

- expanded percentiles, Phi(+- sqrt(V / (V - 1)) t(0.975, V - 1)) (Hesterberg, "What Teachers Should Know
  About the Bootstrap", 2015, section 4): at 77 videos 2.2 and 97.8;
- bias correction and acceleration (BCa; Efron, "Better Bootstrap Confidence Intervals", 1987), the
  acceleration from leaving out one video at a time.

With them 93 to 97 % are covered from 10 videos on, from 15 on at accuracies near 0.9
(tests/evaluation/answers/test_intervals.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from autogaze.evaluation.bootstrap import RESAMPLES, Estimate
from autogaze.utils.seeding import numpy_seed

FEW_VIDEOS = 10
"""With fewer, intervals cover less than they promise."""


@dataclass(frozen=True, eq=False)
class VideoDraws:
    """Draws of videos with replacement.

    Attributes:
        counts: how often each video was drawn.
        video: each question's video, as a column of `counts`.
    """

    counts: Float[np.ndarray, "draws videos"]
    video: Int[np.ndarray, " questions"]

    @classmethod
    def draw(cls, videos: Sequence[str], seed: int = 0, draws: int = RESAMPLES) -> "VideoDraws":
        """Draw, by each question's video."""
        names, video = np.unique(np.array(videos), return_inverse=True)
        each = np.full(len(names), 1 / len(names))
        counts = np.random.default_rng(numpy_seed(seed)).multinomial(len(names), each, size=draws)
        return cls(counts.astype(float), video)

    def mean(
        self,
        values: Shaped[np.ndarray, " questions"],
        where: Bool[np.ndarray, " questions"] | None = None,
    ) -> Estimate:
        """The mean of values of questions, and its interval.

        Args:
            values: such as 1 for right answers and 0 for wrong ones, or their differences.
            where: only these questions, of which there is at least one.

        Returns:
            The mean; without an interval where the questions are of one video, or all videos have
            the same mean (that all answers are right here does not say that all are right elsewhere).
        """
        chosen = np.ones(len(values), bool) if where is None else where
        size = self.counts.shape[1]
        numbers = np.bincount(self.video[chosen], minlength=size).astype(float)
        sums = np.bincount(self.video[chosen], values[chosen].astype(float), minlength=size)
        mean = float(sums.sum() / numbers.sum())
        there = numbers > 0
        if np.ptp(sums[there] / numbers[there]) < 1e-12:
            return Estimate(mean, None, None)
        drawn = self.counts @ numbers
        means = (self.counts @ sums)[drawn > 0] / drawn[drawn > 0]
        without = (sums.sum() - sums[there]) / (numbers.sum() - numbers[there])
        ends = np.quantile(means, corrected_tails(means, mean, without))
        return Estimate(mean, float(ends[0]), float(ends[1]))


def corrected_tails(
    means: Float[np.ndarray, " draws"], mean: float, without: Float[np.ndarray, " videos"]
) -> tuple[float, float]:
    """The quantiles of the draws between which the interval lies.

    Args:
        means: in every draw.
        mean: of the videos as they are.
        without: of all videos but one, for each.
    """
    normal = NormalDist()
    below = float((means < mean).mean() + (means <= mean).mean()) / 2
    bias = normal.inv_cdf(min(max(below, 0.001), 0.999))
    apart = without.mean() - without
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))
    tail = max(expanded_tail(len(without)), 1e-12)
    low, high = (
        normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        for z in (normal.inv_cdf(tail), -normal.inv_cdf(tail))
    )
    return low, high


def expanded_tail(num_videos: int) -> float:
    """The share of draws beyond each end of the expanded percentile interval of 95 %."""
    n = num_videos
    t = student_quantile(0.975, n - 1)
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t)


def student_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for a probability above a half, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if student_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def student_cdf(t: float, degrees: int) -> float:
    """The distribution function of Student's t, for t >= 0 and whole degrees of freedom.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, in the angle atan(t / sqrt(degrees)).
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    part = math.sin(angle) * total
    return 0.5 + (angle + part) / math.pi if odd else 0.5 + part / 2
