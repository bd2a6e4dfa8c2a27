"""What must hold of the algorithms whatever the numbers are."""

import pytest
import torch

from autogaze.algorithms.dummy import dummy_loss
from autogaze.algorithms.grpo import discounted_credit, group_advantage, grpo_loss
from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.errors import TrainingError


def rollout(rows=6, slots=9, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(rows, slots, generator=generator)

    is_padding = torch.rand(rows, slots, generator=generator) < 0.3
    is_padding[:, 0] = False
    known = torch.rand(rows, slots, generator=generator) < 0.5
    known[:, 0] = True
    return Rollout(
        (draw() - 2).requires_grad_(), is_padding, draw().requires_grad_(), draw(), known
    )


def spoiled(given: Rollout) -> Rollout:
    """The same, with nonsense wherever nothing may be read."""
    nan = float("nan")
    unknown = given.is_padding | ~given.losses_known
    return Rollout(
        given.log_probs.detach().masked_fill(given.is_padding, nan),
        given.is_padding,
        given.predicted_losses.detach().masked_fill(unknown, nan),
        given.losses.masked_fill(unknown, nan),
        given.losses_known,
    )


def test_padded_slots_count_nowhere():
    given = rollout()
    reward = torch.randn(6, 2)
    arguments = {"group_size": 3, "discount_factor": 0.9}
    for loss in (ntp_loss, lambda r: grpo_loss(r, reward, (4, 9), **arguments), dummy_loss):
        torch.testing.assert_close(loss(spoiled(given)), loss(given).detach())


def test_a_group_of_one_teaches_the_policy_nothing():
    given = rollout()
    loss = grpo_loss(
        given, torch.randn(6, 2), (4, 9), group_size=1, optimize_task_loss_prediction=False
    )
    (gradient,) = torch.autograd.grad(loss.sum(), given.log_probs)
    assert gradient.abs().max() == 0


def test_a_better_row_becomes_likelier_and_a_worse_one_less_likely():
    given = rollout(rows=2)
    reward = torch.tensor([[1.0], [0.0]])
    loss = grpo_loss(given, reward, (9,), group_size=2, optimize_task_loss_prediction=False)
    (gradient,) = torch.autograd.grad(loss.sum(), given.log_probs)
    real = ~given.is_padding
    assert (gradient[0][real[0]] < 0).all()  # descending the loss raises these
    assert (gradient[1][real[1]] > 0).all()


def test_advantages_of_a_group_cancel():
    advantage = group_advantage(torch.randn(6, 2), 3)
    assert advantage.unflatten(0, (3, 2)).sum(0).abs().max() < 1e-6


def test_credit_is_discounted_by_the_real_gazes_that_follow():
    is_padding = torch.tensor([[False, True, False, False, False]])
    credit = discounted_credit(torch.tensor([[2.0]]), (4,), is_padding, 0.5)
    assert credit.tolist() == [[0.5, 0.0, 1.0, 2.0, 0.0]]


def test_credits_of_several_rewards_add_up():
    is_padding = torch.zeros(1, 4, dtype=torch.bool)
    both = discounted_credit(torch.tensor([[1.0, 3.0]]), (2, 4), is_padding, 0.9)
    first = discounted_credit(torch.tensor([[1.0]]), (2,), is_padding, 0.9)
    second = discounted_credit(torch.tensor([[3.0]]), (4,), is_padding, 0.9)
    torch.testing.assert_close(both, first + second)


def test_dummy_gives_no_gradient():
    given = rollout()
    (gradient,) = torch.autograd.grad(dummy_loss(given).sum(), given.log_probs)
    assert gradient.abs().max() == 0


def test_rows_that_make_no_groups_are_refused():
    with pytest.raises(TrainingError, match=r"\b6 rows.*groups of 4\b"):
        grpo_loss(rollout(), torch.zeros(6, 1), (9,), group_size=4)


def test_missing_losses_are_named():
    given = rollout()
    bare = Rollout(given.log_probs, given.is_padding)
    with pytest.raises(TrainingError, match="optimize_task_loss_prediction"):
        ntp_loss(bare)
    assert torch.isfinite(ntp_loss(bare, optimize_task_loss_prediction=False)).all()
