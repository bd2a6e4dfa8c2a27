"""What the algorithms look at: gazes with the probabilities and losses that belong to them."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.errors import TrainingError


@dataclass(frozen=True)
class Rollout:
    """Gazes of R rows, padded to S slots, and what the model said of them.

    Attributes:
        log_probs: (R, S) log-probability of each gaze, with a graph.
        is_padding: (R, S) True where a slot holds no gaze; such slots count nowhere.
        predicted_losses: (R, S) loss predicted after each gaze, with a graph.
        losses: (R, S) the loss there really was, where known.
        losses_known: (R, S) where it is.
        mean_gazes: gazes a row has on average, where these rows are only some of a
            batch that is learned from at once; else counted here.
        mean_known: known losses a row has on average, likewise.
    """

    log_probs: Float[Tensor, "R S"]
    is_padding: Bool[Tensor, "R S"]
    predicted_losses: Float[Tensor, "R S"] | None = None
    losses: Float[Tensor, "R S"] | None = None
    losses_known: Bool[Tensor, "R S"] | None = None
    mean_gazes: float | None = None
    mean_known: float | None = None


def mean_over_rows(mask: Bool[Tensor, "R S"]) -> Float[Tensor, ""]:
    """How many slots a row has on average, at least a fraction of one."""
    return mask.sum(1).float().mean().clamp(min=1 / max(1, mask.numel()))


def loss_prediction_loss(rollout: Rollout) -> Float[Tensor, " R"]:
    """How far predicted losses are from real ones, a row (AutoGaze, section 3.3).

        sum_s known_s (predicted_s - real_s)^2  /  mean over rows of the number known

    Raises:
        TrainingError: the rollout lacks predicted or real losses.
    """
    if rollout.predicted_losses is None or rollout.losses is None or rollout.losses_known is None:
        raise TrainingError(
            "optimize_task_loss_prediction needs the losses of gazes, and these come without; "
            "use labels with task_losses, or optimize_task_loss_prediction=False"
        )
    known = rollout.losses_known & ~rollout.is_padding
    # Slots without a known loss may hold anything, also NaN.
    error = (rollout.predicted_losses - rollout.losses).masked_fill(~known, 0.0)
    mean = mean_over_rows(known) if rollout.mean_known is None else rollout.mean_known
    return error.square().sum(1) / mean
