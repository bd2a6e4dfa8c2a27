"""GRPO, simplified and on-policy (AutoGaze, section 3.4).

Every clip is gazed at G times; the G rows of a clip are a group. The reward of a row
at reconstructed frame f is minus the loss of that frame, its advantage

    A_f = reward_f - mean of the group's reward_f            (no division by a deviation)

and a gaze before the end of frame f is credited with

    A_f * discount ^ (number of real gazes after it, up to the end of frame f)

    loss_r = - sum_s real_s exp(log p_s - log p_s.detach()) * sum_f credited_sf

The exponential is 1 and its gradient is that of log p: the policy gradient. There is
no KL term, no clipping and no normalisation by length.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout, loss_prediction_loss
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
        slots_until_reward: for each of them, the slots up to its frame's end.
        group_size: rows of a clip, G.
        discount_factor: in (0, 1].

    Raises:
        TrainingError: rows that do not divide into groups.
    """
    advantage = group_advantage(reward, group_size)
    credit = credited(advantage, slots_until_reward, rollout.is_padding, discount_factor)
    # Padded slots may hold anything as log-probability.
    log_probs = rollout.log_probs.masked_fill(rollout.is_padding, 0.0)
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


def credited(
    advantage: Float[Tensor, "R F"],
    slots_until_reward: Sequence[int],
    is_padding: Bool[Tensor, "R S"],
    discount_factor: float,
) -> Float[Tensor, "R S"]:
    """What every slot is credited with, all rewards together; 0 where padded."""
    real = (~is_padding).to(advantage.dtype)
    credit = torch.zeros_like(real)
    for frame, end in enumerate(slots_until_reward):
        until = real[:, :end]
        # Real gazes from this slot to the end, itself not counted.
        still_to_come = until.flip(1).cumsum(1).flip(1) - until
        credit[:, :end] += advantage[:, frame, None] * discount_factor**still_to_come
    return credit * real
