"""Dummy algorithm: no loss for the selector, for training a reconstruction model on random gazes."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import PublishedAlgorithm, Rollout, tensor_of


def dummy_loss(rollout: Rollout) -> Float[Tensor, " R"]:
    """Zero for every row, connected to the graph so that a backward pass works."""
    return rollout.log_probs.masked_fill(rollout.is_padding, 0.0).sum(1) * 0.0


class Dummy(PublishedAlgorithm):
    """`dummy_loss` with the published interface: zero for every row."""

    def __init__(self) -> None:
        super().__init__()

    def loss(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any] | None,
    ) -> dict[str, Float[Tensor, " R"]]:
        positions = tensor_of("gaze_outputs", gaze_outputs, "gazing_pos")
        return {"dummy_loss": torch.zeros(len(positions), device=positions.device)}
