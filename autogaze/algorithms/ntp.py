"""NTP: next-token prediction on labelled gazes (AutoGaze, section 3.3).

loss_r = - sum_s real_s log p_s  /  mean over rows of the number of real gazes
         + P_r, the loss-prediction term, where enabled
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import (
    PublishedAlgorithm,
    Rollout,
    loss_prediction_loss,
    mean_over_rows,
    rollout_of,
)


def ntp_loss(
    rollout: Rollout, *, optimize_task_loss_prediction: bool = True
) -> Float[Tensor, " R"]:
    """Loss of every row; training minimises the mean."""
    real = ~rollout.is_padding
    log_probs = rollout.log_probs.masked_fill(~real, 0.0)
    mean = mean_over_rows(real) if rollout.mean_gazes is None else rollout.mean_gazes
    loss = -log_probs.sum(1) / mean
    if optimize_task_loss_prediction:
        loss = loss + loss_prediction_loss(rollout)
    return loss


class NTP(PublishedAlgorithm):
    """`ntp_loss` with the published interface."""

    def loss(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any] | None,
    ) -> dict[str, Float[Tensor, " R"]]:
        rollout = rollout_of(gaze_outputs, task_outputs)
        return {
            "ntp_loss": ntp_loss(rollout, optimize_task_loss_prediction=False),
            "task_loss_prediction_loss": self.prediction_loss(rollout),
        }
