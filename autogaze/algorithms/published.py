"""Base class of the algorithms with the published interface, which users construct and call.

They take the published dicts, and compute the same functions of a `Rollout` as the classes that
training with this package uses (`autogaze.training.algorithms`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout, loss_prediction_loss


class PublishedAlgorithm(ABC):
    """An algorithm called with the dicts of a model's gazes and a task's rewards.

    Args:
        optimize_task_loss_prediction: whether the losses that the model predicted are trained too.
    """

    def __init__(self, optimize_task_loss_prediction: bool = False) -> None:
        self.optimize_task_loss_prediction = optimize_task_loss_prediction

    def preprocess_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs of a training step, before the model sees them: the same dict, changed where needed."""
        return inputs

    @abstractmethod
    def loss(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any],
    ) -> dict[str, Float[Tensor, " R"]]:
        """Terms of every row's loss by name.

        Args:
            gaze_outputs: `log_action_probs` (R, S) and `if_padded_gazing` (R, S) are read, and
                `task_loss_prediction` (R, S).
            task_outputs: `task_losses` and `task_losses_mask`, (R, S) each, are read where
                predicted losses are trained.
        """

    def __call__(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """`loss` (R,), the sum of the terms, and `metrics`, their means."""
        terms = self.loss(inputs, gaze_outputs, task_outputs)
        metrics = {name: term.mean() for name, term in terms.items()}
        return {"loss": torch.stack(list(terms.values())).sum(0), "metrics": metrics}

    def prediction_loss(self, rollout: Rollout) -> Float[Tensor, " R"]:
        """The term of predicted losses; 0, but with a gradient, where they are not trained."""
        if self.optimize_task_loss_prediction:
            return loss_prediction_loss(rollout)
        nothing = rollout.log_probs.new_zeros(len(rollout.log_probs))
        if rollout.predicted_losses is None:
            return nothing
        # Parameters without any gradient would stop data-parallel training.
        return nothing + rollout.predicted_losses.masked_fill(rollout.is_padding, 0.0).sum() * 0


def rollout_of(gaze_outputs: Mapping[str, Any], task_outputs: Mapping[str, Any]) -> Rollout:
    """The rollout in the two dicts of the published interface."""
    known = task_outputs.get("task_losses_mask")
    return Rollout(
        gaze_outputs["log_action_probs"],
        gaze_outputs["if_padded_gazing"].bool(),
        gaze_outputs.get("task_loss_prediction"),
        task_outputs.get("task_losses"),
        None if known is None else known.bool(),
    )
