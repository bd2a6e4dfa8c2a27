"""Rollout: gaze sequences with the log-probabilities and losses that algorithms need."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.errors import TrainingError


@dataclass(frozen=True)
class Rollout:
    """R gaze sequences padded to S slots, as scored by the model.

    Attributes:
        log_probs: (R, S) log-probability of each gaze, differentiable.
        is_padding: (R, S) True where a slot holds no gaze; such slots are ignored everywhere.
        predicted_losses: (R, S) loss predicted after each gaze, differentiable.
        losses: (R, S) the measured loss there, where known.
        losses_known: (R, S) where it is known.
        mean_gazes: mean number of gazes per row of the whole batch, where these rows are only a
            part of it; by default that of these rows.
        mean_known: mean number of known losses per row, likewise.
    """

    log_probs: Float[Tensor, "R S"]
    is_padding: Bool[Tensor, "R S"]
    predicted_losses: Float[Tensor, "R S"] | None = None
    losses: Float[Tensor, "R S"] | None = None
    losses_known: Bool[Tensor, "R S"] | None = None
    mean_gazes: float | None = None
    mean_known: float | None = None


def mean_over_rows(mask: Bool[Tensor, "R S"]) -> Float[Tensor, ""]:
    """Mean number of True slots per row, bounded away from zero."""
    return mask.sum(1).float().mean().clamp(min=1 / max(1, mask.numel()))


def loss_prediction_loss(rollout: Rollout) -> Float[Tensor, " R"]:
    """Squared error of the predicted losses, per row (AutoGaze, section 3.3).

        P_r = sum_s known_s (predicted_s - measured_s)^2  /  mean over rows of the number known

    Raises:
        TrainingError: the rollout lacks predicted or measured losses.
    """
    if rollout.predicted_losses is None or rollout.losses is None or rollout.losses_known is None:
        raise TrainingError(
            "optimize_task_loss_prediction needs measured losses, and these gazes have none: "
            "use labels with task_losses, or optimize_task_loss_prediction=False"
        )
    known = rollout.losses_known & ~rollout.is_padding
    # Slots without a known loss may hold anything, also NaN.
    error = (rollout.predicted_losses - rollout.losses).masked_fill(~known, 0.0)
    mean = mean_over_rows(known) if rollout.mean_known is None else rollout.mean_known
    return error.square().sum(1) / mean
