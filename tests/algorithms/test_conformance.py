"""NTP and GRPO give the losses and gradients of the conformance data."""

import json

import pytest
import torch
from safetensors.torch import load_file

from autogaze.algorithms.grpo import grpo_loss
from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from tests.conformance import conformance_folder

FOLDER = conformance_folder()
pytestmark = pytest.mark.skipif(FOLDER is None, reason="no conformance data beside the project")


@pytest.fixture(scope="module")
def data():
    return load_file(FOLDER / "algorithms" / "cases.safetensors")


@pytest.fixture(scope="module")
def settings():
    return json.loads((FOLDER / "algorithms" / "config.json").read_text())


@pytest.fixture
def rollout(data):
    return Rollout(
        data["in.log_action_probs"].clone().requires_grad_(),
        data["in.if_padded_gazing"],
        data["in.task_loss_prediction"].clone().requires_grad_(),
        data["in.task_losses"],
        data["in.task_losses_mask"].bool(),
    )


def check(data, name, rollout, loss):
    torch.testing.assert_close(loss, data[f"{name}.loss"], atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(loss.mean(), [rollout.log_probs, rollout.predicted_losses])
    wanted = ("grad_log_action_probs", "grad_task_loss_prediction")
    for gradient, key in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, data[f"{name}.{key}"], atol=1e-6, rtol=1e-5)


def test_ntp(data, rollout):
    check(data, "ntp", rollout, ntp_loss(rollout))


def test_grpo(data, rollout, settings):
    loss = grpo_loss(
        rollout,
        data["in.reward"],
        data["in.traj_len_each_reward"].tolist(),
        group_size=settings["group_size"],
        discount_factor=settings["discount_factor"],
        optimize_task_loss_prediction=settings["optimize_task_loss_prediction"],
    )
    check(data, "grpo", rollout, loss)
