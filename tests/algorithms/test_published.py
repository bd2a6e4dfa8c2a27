"""Algorithms as the published package's users construct and call them."""

import pytest
import torch

from autogaze.algorithms import GRPO, NTP, Dummy
from autogaze.errors import TrainingError


def gazes(log_probs, is_padding=None, predicted=None):
    log_probs = torch.tensor(log_probs, requires_grad=True)
    if is_padding is None:
        is_padding = torch.zeros(log_probs.shape, dtype=torch.bool)
    outputs = {
        "gazing_pos": torch.zeros(log_probs.shape, dtype=torch.long),
        "log_action_probs": log_probs,
        "if_padded_gazing": torch.as_tensor(is_padding, dtype=torch.bool),
    }
    if predicted is not None:
        outputs["task_loss_prediction"] = torch.tensor(predicted, requires_grad=True)
    return outputs


def test_ntp_divides_by_the_mean_number_of_gazes():
    outputs = gazes([[-1.0, -2.0, -3.0], [-4.0, 9.0, 9.0]], [[0, 0, 0], [0, 1, 1]])
    result = NTP()({}, outputs, {})
    assert result["loss"].tolist() == pytest.approx([6 / 2, 4 / 2])
    assert {name: value.item() for name, value in result["metrics"].items()} == pytest.approx(
        {"ntp_loss": 2.5, "task_loss_prediction_loss": 0.0}
    )


def test_ntp_trains_predicted_losses_where_asked():
    outputs = gazes([[0.0, 0.0], [0.0, 0.0]], predicted=[[1.0, 2.0], [3.0, 4.0]])
    measured = {
        "task_losses": torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
        "task_losses_mask": torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
    }
    terms = NTP(optimize_task_loss_prediction=True).loss({}, outputs, measured)
    # Squared errors 1 + 4 and 4 of three losses in two rows.
    assert terms["task_loss_prediction_loss"].tolist() == pytest.approx([5 / 1.5, 4 / 1.5])
    with pytest.raises(TrainingError, match="task_losses"):
        NTP(True)({}, outputs, {})


@pytest.mark.parametrize("algorithm", [NTP(), GRPO(2, 1.0)], ids=["NTP", "GRPO"])
def test_predicted_losses_that_are_not_trained_have_a_gradient(algorithm):
    outputs = gazes([[-1.0], [-2.0]], predicted=[[1.0], [2.0]])
    rewards = {"reward": torch.tensor([[0.0], [1.0]]), "traj_len_each_reward": [1]}
    algorithm({}, outputs, rewards)["loss"].sum().backward()
    assert outputs["task_loss_prediction"].grad.abs().sum() == 0
    assert outputs["log_action_probs"].grad.abs().sum() > 0


def test_grpo_credits_gazes_before_a_reward():
    outputs = gazes([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]], [[0, 0, 0], [0, 1, 0]])
    rewards = {
        "reward": torch.tensor([[1.0, 0.0], [0.0, 4.0]]),  # advantages 0.5, -0.5; -2, 2
        "traj_len_each_reward": torch.tensor([2, 3]),
    }
    result = GRPO(group_size=2, discount_factor=0.5)({}, outputs, rewards)
    result["loss"].sum().backward()
    gradient = outputs["log_action_probs"].grad
    assert gradient[0].tolist() == pytest.approx([-(0.25 - 0.5), -(0.5 - 1.0), 2.0])
    assert gradient[1].tolist() == pytest.approx([-(-0.5 + 1.0), 0.0, -2.0])
    assert set(result["metrics"]) == {"grpo_loss", "task_loss_prediction_loss"}


def test_grpo_repeats_every_clip():
    inputs = {"video": torch.arange(2), "video_path": ["a", "b"]}
    result = GRPO(3, 0.9).preprocess_inputs(inputs)
    assert result is inputs
    assert result["video"].tolist() == [0, 1] * 3
    assert result["video_path"] == ["a", "b"] * 3
    assert result["group_size"] == 3
    with pytest.raises(TrainingError, match=r"'labels'.*dict"):
        GRPO(3, 0.9).preprocess_inputs({"labels": {}})


def test_a_dummy_trains_nothing():
    result = Dummy()({}, gazes([[-1.0], [-2.0]]), {})
    assert result["loss"].tolist() == [0.0, 0.0]
    assert float(result["metrics"]["dummy_loss"]) == 0.0
    inputs = {"video": torch.zeros(1)}
    assert Dummy().preprocess_inputs(inputs) is inputs
    assert NTP().preprocess_inputs(inputs) is inputs


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("algorithm", [NTP(), Dummy()], ids=["NTP", "Dummy"])
def test_without_rewards_or_losses_no_task_is_needed(algorithm):
    outputs = gazes([[-1.0], [-2.0]])
    assert algorithm({}, outputs, None)["loss"].equal(algorithm({}, outputs, {})["loss"])


def with_rewards(**changes):
    rewards = {"reward": torch.zeros(2, 1), "traj_len_each_reward": [1]}
    return {
        **rewards,
        "task_losses": torch.zeros(2, 1),
        "task_losses_mask": torch.ones(2, 1),
    } | changes


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("algorithm", "outputs", "rewards", "named"),
    [
        (NTP(), None, {}, "gaze_outputs must hold log_action_probs"),
        (NTP(), {}, {}, "log_action_probs.*empty"),
        (NTP(), {"log_action_probs": None}, {}, "log_action_probs.*None"),
        (NTP(), {"log_action_probs": torch.zeros(2)}, {}, r"log_action_probs.*\(2,\)"),
        (NTP(), {"log_action_probs": torch.zeros(2, 1)}, {}, "if_padded_gazing"),
        (NTP(True), gazes([[0.0], [0.0]], predicted=[[0.0], [0.0]]), None, "task_losses"),
        (
            NTP(True),
            gazes([[0.0], [0.0]], predicted=[[0.0], [0.0]]),
            with_rewards(task_losses=torch.zeros(2, 3)),
            r"one shape.*\(2, 3\)",
        ),
        (Dummy(), {}, {}, "gazing_pos"),
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), None, "task_outputs must hold reward"),
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), {"other": 1}, "only other"),
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), with_rewards(reward=torch.zeros(2)), "two dim"),
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), with_rewards(reward=torch.zeros(4, 1)), "2 rows"),
        # The second reward would be left out.
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), with_rewards(reward=torch.zeros(2, 2)), "traj_len"),
        (GRPO(2, 1.0), gazes([[0.0], [0.0]]), with_rewards(traj_len_each_reward="a"), "traj_len"),
    ],
)  # fmt: skip
def test_outputs_that_lack_something_are_named(algorithm, outputs, rewards, named):
    with pytest.raises(TrainingError, match=named):
        algorithm({}, outputs, rewards)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("size", "discount", "named"),
    [(0, 0.9, "group_size"), ("a", 0.9, "group_size"), (1.5, 0.9, "group_size"),
     (2, 0, "discount"), (2, 1.5, "discount"), (2, None, "discount")],
)  # fmt: skip
def test_groups_and_discounts_are_checked(size, discount, named):
    with pytest.raises(TrainingError, match=named):
        GRPO(size, discount)
