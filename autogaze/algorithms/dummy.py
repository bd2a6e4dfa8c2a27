"""Dummy algorithm: no loss for the selector, for training a reconstruction model on random gazes."""

from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout


def dummy_loss(rollout: Rollout) -> Float[Tensor, " R"]:
    """Zero for every row, connected to the graph so that a backward pass works."""
    return rollout.log_probs.masked_fill(rollout.is_padding, 0.0).sum(1) * 0.0
