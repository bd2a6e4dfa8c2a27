"""How alike two sets of features are: cosines, common nearest neighbours, intervals."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over clips or frames.

    Attributes:
        low, high: 95 % interval from resampling whole videos; None with fewer than two.
    """

    mean: float
    low: float | None
    high: float | None


def cosines(a: Float[Tensor, "n C"], b: Float[Tensor, "n C"]) -> Float[Tensor, " n"]:
    """Row by row, in [-1, 1]."""
    return F.cosine_similarity(a.double(), b.double(), dim=-1)


def nearest(features: Float[Tensor, "n C"], group: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For every row the most similar row (by cosine) of another group; -1 if there is none."""
    unit = F.normalize(features.double(), dim=-1)
    alike = unit @ unit.T
    alike[group[:, None] == group] = -torch.inf
    best = alike.max(dim=1)
    return torch.where(best.values.isinf(), -1, best.indices)


def same_neighbours(
    dense: Float[Tensor, "n C"], gazed: Float[Tensor, "n C"], group: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Whether a row's nearest row of another group is the same by both sets of features."""
    return nearest(dense, group) == nearest(gazed, group)


def between(features: Float[Tensor, "n C"]) -> float:
    """Mean cosine of two different rows: how alike things are that are not the same."""
    unit = F.normalize(features.double(), dim=-1)
    n = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))


def estimate(values: Tensor, video: Int[Tensor, " n"], seed: int = 0) -> Estimate:
    """Mean and interval of `values`, which belong to videos.

    What is uncertain is which videos were taken, so whole videos are drawn with
    replacement; clips of one video are too alike to be drawn by themselves.
    """
    values_np, video_np = values.double().numpy(), video.numpy()
    _, which = np.unique(video_np, return_inverse=True)
    sums, counts = np.bincount(which, values_np), np.bincount(which)
    mean = float(values_np.mean())
    if len(sums) < 2:
        return Estimate(mean, None, None)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high))
