"""Dummy: teaches the selector nothing, for training a judge on random gazes."""

from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout


def dummy_loss(rollout: Rollout) -> Float[Tensor, " R"]:
    """Zero for every row, with a graph, so that any trainer can go backward."""
    return rollout.log_probs.masked_fill(rollout.is_padding, 0.0).sum(1) * 0.0
