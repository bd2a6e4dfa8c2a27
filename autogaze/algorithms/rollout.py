"""Rollouts, what algorithms see: gaze sequences with their log-probabilities and losses.

`PublishedAlgorithm` is the base class of those that users of AutoGaze construct and call: they
compute the same functions of a `Rollout` as the classes that training with this package uses
(`autogaze.training.algorithms`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.checks import describe_value
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
    shapes = {
        name: tuple(getattr(rollout, name).shape)
        for name in ("is_padding", "predicted_losses", "losses", "losses_known")
    }
    if len({*shapes.values()}) > 1:
        raise TrainingError(
            f"losses and predictions must be of one shape (rows, slots), got {shapes}"
        )
    known = rollout.losses_known & ~rollout.is_padding
    # Slots without a known loss may hold anything, also NaN.
    error = (rollout.predicted_losses - rollout.losses).masked_fill(~known, 0.0)
    mean = mean_over_rows(known) if rollout.mean_known is None else rollout.mean_known
    return error.square().sum(1) / mean


# The published interface.


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
        task_outputs: Mapping[str, Any] | None,
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
        task_outputs: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """`loss` (R,), the sum of the terms, and `metrics`, their means.

        Raises:
            TrainingError: outputs lack what the algorithm reads, or hold it in another shape.
        """
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


def rollout_of(gaze_outputs: Any, task_outputs: Any) -> Rollout:
    """The rollout in the two dicts of the published interface; `task_outputs` may be None.

    Raises:
        TrainingError: no `log_action_probs` or `if_padded_gazing`, or others of another shape.
    """
    log_probs = tensor_of("gaze_outputs", gaze_outputs, "log_action_probs")
    shape = tuple(log_probs.shape)
    known = _given(task_outputs, "task_losses_mask")
    return Rollout(
        log_probs,
        tensor_of("gaze_outputs", gaze_outputs, "if_padded_gazing", shape).bool(),
        _given(gaze_outputs, "task_loss_prediction"),
        _given(task_outputs, "task_losses"),
        None if known is None else known.bool(),
    )


def tensor_of(group: str, outputs: Any, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor that one of the dicts, called `group`, must hold; by default (rows, ...).

    Raises:
        TrainingError: it is not there, or of another shape.
    """
    value = _given(outputs, name)
    if value is not None and (value.ndim == 2 if shape is None else tuple(value.shape) == shape):
        return value
    if not isinstance(outputs, Mapping):
        got = describe_value(outputs)
    elif name in outputs:
        got = describe_value(outputs[name]) if value is None else f"shape {tuple(value.shape)}"
    else:
        got = f"only {', '.join(sorted(map(str, outputs))) or 'an empty dict'}"
    wanted = "two dimensions, rows first" if shape is None else f"shape {shape}"
    raise TrainingError(f"{group} must hold {name}, a tensor of {wanted}; got {got}")


def _given(outputs: Any, name: str) -> Tensor | None:
    """A value of a dict as a tensor; None where there is none, or none that could be one."""
    value = outputs.get(name) if isinstance(outputs, Mapping) else None
    try:
        return torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError):
        return None
