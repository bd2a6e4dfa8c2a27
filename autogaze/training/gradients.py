"""Gradients of all processes together, and the optimizer they go to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.options import TrainerOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that learn."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def parameter_groups(model: AutoGaze, task: Task, options: TrainerOptions) -> list[dict[str, Any]]:
    """What the optimizer is given; `factor` scales the learning rate of a group."""
    groups: list[dict[str, Any]] = []
    if options.train_gaze:
        stem = trained_parameters(model.gazing_model.vision_model)
        held = {id(parameter) for parameter in stem}
        rest = [p for p in trained_parameters(model) if id(p) not in held]
        groups.append({"params": stem, "factor": options.vision_lr_factor})
        groups.append({"params": rest, "factor": 1.0})
    if options.train_task:
        groups.append({"params": trained_parameters(task), "factor": 1.0})
    return groups


def make_optimizer(
    groups: Sequence[dict[str, Any]], options: TrainerOptions
) -> torch.optim.Optimizer:
    """Adam, AdamW (its decay apart from the gradient) or SGD."""
    betas = (options.betas[0], options.betas[1])
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        return torch.optim.SGD(list(groups), momentum=options.momentum, **common)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(list(groups), betas=betas, **common)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step, each group by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def clear_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero them all. They are never None, so a parameter that nobody used is treated
    alike by one process and by many.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def sum_over_processes(parameters: Sequence[nn.Parameter], accelerator: "Accelerator") -> None:
    """Add up the gradients of all processes, in one message.

    Each process's gradients are of a sum over its own rows divided by the rows of all,
    so their sum is the gradient of the mean.
    """
    if accelerator.num_processes == 1 or not parameters:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    summed: Tensor = accelerator.reduce(flat, reduction="sum")  # type: ignore[assignment]
    parts = summed.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
