"""GRPO: group-relative policy optimisation, simplified and on-policy (AutoGaze, section 3.4).

    sample     G gazes s = (s_1, s_2, ...) of every clip from the model: its group
    reward     R_f = - loss of reconstructed frame f
    advantage  A_f = R_f - mean of the group's R_f              (not divided by the deviation)
    credit     c_s = sum_f A_f discount^(number of gazes after s up to the end of frame f),
               over the frames f that end after s
    loss_r     - sum_s exp(log p_s - log p_s.detach()) c_s  +  P_r

The exponential is 1 and its gradient is that of log p_s. With `algorithm.policy=sampled`, p_s is of
the distribution that s was drawn from, which makes this the policy gradient. With `as_released` it
is taken at temperature 1 with nothing masked, as the release does.

One update per rollout, so nothing is clipped; no KL term, no normalisation by length. Samples and
rewards come from `autogaze.training.algorithms.GRPO`; P_r is the loss-prediction term.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.algorithms.rollout import (
    PublishedAlgorithm,
    Rollout,
    loss_prediction_loss,
    rollout_of,
    tensor_of,
)
from autogaze.checks import describe_value, is_number, whole
from autogaze.errors import TrainingError


def grpo_loss(
    rollout: Rollout,
    reward: Float[Tensor, "R F"],
    slots_until_reward: Sequence[int],
    *,
    group_size: int,
    discount_factor: float = 1.0,
    optimize_task_loss_prediction: bool = True,
) -> Float[Tensor, " R"]:
    """Loss of every row; training minimises the mean.

    Args:
        rollout: rows group-major: row = repetition * clips + clip.
        reward: of every row at each of F reconstructed frames.
        slots_until_reward: for each of them, the number of slots up to its frame's end.
        group_size: rows per clip, G.
        discount_factor: in (0, 1].

    Raises:
        TrainingError: rows that do not divide into groups.
    """
    advantage = group_advantage(reward, group_size)  # (R, F)
    credit = discounted_credit(
        advantage, slots_until_reward, rollout.is_padding, discount_factor
    )  # (R, S)
    log_probs = rollout.log_probs.masked_fill(rollout.is_padding, 0.0)  # padding may hold anything
    loss = -(torch.exp(log_probs - log_probs.detach()) * credit).sum(1)
    if optimize_task_loss_prediction:
        loss = loss + loss_prediction_loss(rollout)
    return loss


def group_advantage(reward: Float[Tensor, "R F"], group_size: int) -> Float[Tensor, "R F"]:
    """Reward minus the mean over the group's rows."""
    if group_size < 1 or len(reward) % group_size:
        raise TrainingError(f"{len(reward)} rows cannot be divided into groups of {group_size}")
    groups = reward.unflatten(0, (group_size, -1))  # (G, clips, F)
    return (groups - groups.mean(0)).flatten(0, 1)


def reward_spread(reward: Float[Tensor, "R F"], group_size: int) -> Float[Tensor, " R"]:
    """Standard deviation of the rewards within the group of every row, mean over frames.

    From a group without spread nothing can be learned: its advantages are 0.
    """
    groups = reward.unflatten(0, (group_size, -1))  # (G, clips, F)
    return groups.std(0, correction=0).mean(1).repeat(group_size)


def has_no_spread(reward: Float[Tensor, "R F"], group_size: int) -> Float[Tensor, " R"]:
    """1 for the rows of groups whose rewards are all the same up to rounding, else 0."""
    groups = reward.unflatten(0, (group_size, -1))
    same = torch.isclose(groups.amax(0), groups.amin(0)).all(1)  # (clips,)
    return same.to(reward.dtype).repeat(group_size)


def discounted_credit(
    advantage: Float[Tensor, "R F"],
    slots_until_reward: Sequence[int],
    is_padding: Bool[Tensor, "R S"],
    discount_factor: float,
) -> Float[Tensor, "R S"]:
    """Discounted advantages of every slot, summed over rewards; 0 where padded."""
    real = (~is_padding).to(advantage.dtype)
    credit = torch.zeros_like(real)
    for frame, end in enumerate(slots_until_reward):
        until = real[:, :end]
        still_to_come = until.flip(1).cumsum(1).flip(1) - until  # real gazes after each slot
        credit[:, :end] += advantage[:, frame, None] * discount_factor**still_to_come
    return credit * real


class GRPO(PublishedAlgorithm):
    """`grpo_loss` with the published interface.

    Args:
        group_size: gazes of every clip.
        discount_factor: in (0, 1].
        optimize_task_loss_prediction: see `PublishedAlgorithm`.
    """

    def __init__(
        self, group_size: int, discount_factor: float, optimize_task_loss_prediction: bool = False
    ) -> None:
        super().__init__(optimize_task_loss_prediction)
        size = whole(group_size)
        if size is None or size < 1:
            raise TrainingError(
                f"group_size must be a whole number of at least 1, got {describe_value(group_size)}"
            )
        if not (is_number(discount_factor) and 0 < discount_factor <= 1):
            raise TrainingError(
                f"discount_factor must lie in (0, 1], got {describe_value(discount_factor)}"
            )
        self.group_size = size
        self.discount_factor = discount_factor

    def preprocess_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Every clip `group_size` times, repetition after repetition; the dict is changed in place.

        Raises:
            TrainingError: a value that is neither a tensor nor a list.
        """
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                inputs[name] = torch.cat([value] * self.group_size)
            elif isinstance(value, list):
                inputs[name] = value * self.group_size
            else:
                raise TrainingError(
                    f"{name!r} must be a tensor or a list to be repeated for every gaze of a "
                    f"clip, got {type(value).__name__}"
                )
        inputs["group_size"] = self.group_size
        return inputs

    def loss(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any] | None,
    ) -> dict[str, Float[Tensor, " R"]]:
        """As above; `reward` (R, F) and `traj_len_each_reward`, F slot numbers, are read too."""
        rollout = rollout_of(gaze_outputs, task_outputs)
        reward = tensor_of("task_outputs", task_outputs, "reward")
        rows, count = reward.shape
        if rows != len(rollout.log_probs):
            raise TrainingError(
                f"reward must be of (rows, frames), {len(rollout.log_probs)} rows, got {rows}"
            )
        ends = tensor_of("task_outputs", task_outputs, "traj_len_each_reward", (count,))
        policy = grpo_loss(
            rollout,
            reward,
            [int(end) for end in ends],
            group_size=self.group_size,
            discount_factor=self.discount_factor,
            optimize_task_loss_prediction=False,
        )
        return {"grpo_loss": policy, "task_loss_prediction_loss": self.prediction_loss(rollout)}
