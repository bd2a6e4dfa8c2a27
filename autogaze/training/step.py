"""One training step: rollouts, losses, gradients, optimizer."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.datasets.clip import ClipBatch
from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.checkpoints import TrainingState
from autogaze.training.config import TemperatureSchedule, TrainerOptions
from autogaze.training.loader import StepContext, check_unreadable, report_unreadable
from autogaze.training.objective import Objective
from autogaze.training.reporting import Stopwatch
from autogaze.training.rollouts import BatchCounts, RolloutBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

MIN_LOSS_SCALE = 1.0
"""Of fp16: below it, gradients overflow for another reason than the loss scale."""


class TrainingStep:
    """Performs steps; only weights and the optimizer carry over from one to the next.

    Args:
        num_steps: of the whole training, for the schedules.
        max_unreadable: share of clips that may be unreadable.
    """

    def __init__(
        self,
        objective: Objective,
        accelerator: "Accelerator",
        options: TrainerOptions,
        num_steps: int,
        max_unreadable: float,
    ) -> None:
        self.objective, self.accelerator, self.options = objective, accelerator, options
        self.num_steps, self.max_unreadable = num_steps, max_unreadable
        groups = parameter_groups(objective.model, objective.task, options)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare(make_optimizer(groups, options))
        self.stopwatch = Stopwatch()

    def __call__(
        self, state: TrainingState, batches: Sequence[ClipBatch]
    ) -> tuple[TrainingState, dict[str, float]]:
        """Learn from a batch, given as micro-batches; returns what was measured.

        Raises:
            TrainingError: too many unreadable clips, or a loss or gradients that are not
                finite; the weights are then as they were.
        """
        options, number = self.options, state.step + 1
        lr = learning_rate(options, state.step, self.num_steps)
        sampling = temperature(options.temp_schedule_args, state.step, self.num_steps)
        context = StepContext(options.seed, state.step, sampling)
        # 1. Rollouts, without gradients: labels, or gazes sampled from the model and rewarded.
        with self.stopwatch.stage("gazing"):
            found = [self.objective.rollouts(batch, context) for batch in batches]
        rollouts = [batch for batch in found if batch is not None]
        # 2. Totals over all processes: losses are means over the whole batch.
        counts, state = self._count(rollouts, batches, state)
        metrics = {"lr": lr, "gazes": counts.gazes / max(1, counts.rows)}
        if rollouts:
            num_patches = rollouts[0].frames.shape[1] * rollouts[0].rows.pyramid.num_patches
            metrics["gazing_ratio"] = metrics["gazes"] / num_patches
        if self.objective.algorithm.samples:
            metrics["temperature"] = sampling
        if counts.rows:
            # 3. Gradients of the mean loss, micro-batch by micro-batch, then over processes.
            clear_gradients(self.parameters)
            with self.stopwatch.stage("forward and backward"):
                sums = self._backward(rollouts, counts)
                norm = self._clip()
                # All that is asked for is asked for at once: a GPU is waited for one time.
                *totals, norm = torch.cat([sums, norm.to(sums)[None]]).tolist()
            names = self.objective.loss_names + self.objective.metric_names
            measured = {n: total / counts.rows for n, total in zip(names, totals, strict=True)}
            for name, value in measured.items():
                if not math.isfinite(value):
                    raise self._diverged(number, f"{name} is {value}")
            # 4. The optimizer.
            self._update(lr, norm, number)
            metrics |= measured | ({"gradient_norm": norm} if math.isfinite(norm) else {})
        return replace(state, step=number), metrics

    def _count(
        self,
        rollouts: Sequence[RolloutBatch],
        batches: Sequence[ClipBatch],
        state: TrainingState,
    ) -> tuple[BatchCounts, TrainingState]:
        """Totals over all processes; fails where too many clips were unreadable."""
        unreadable = [clip for batch in batches for clip in batch.unreadable]
        report_unreadable(unreadable, self.options.folder)
        own, num_unreadable = BatchCounts.of(rollouts), len(unreadable)
        num_seen = sum(len(batch) for batch in batches) + num_unreadable
        *totals, num_seen, num_unreadable = self._sum(
            [own.rows, own.gazes, own.known, num_seen, num_unreadable]
        )
        seen, missing = state.seen + num_seen, state.unreadable + num_unreadable
        planned = self.num_steps * self.options.batch_size
        check_unreadable(missing, seen, planned, self.max_unreadable)
        return BatchCounts(*totals), replace(state, seen=seen, unreadable=missing)

    def _backward(
        self, rollouts: Sequence[RolloutBatch], counts: BatchCounts
    ) -> Float[Tensor, " names"]:
        """Gradients of the mean loss over all rows of all processes; returns the sums over rows."""
        objective = self.objective
        names = objective.loss_names + objective.metric_names
        sums = torch.zeros(len(names), device=objective.device)
        for batch in rollouts:
            with self.accelerator.autocast():
                values = objective.values(batch, counts)
                total = torch.stack([part.sum() for part in values.losses.values()]).sum()
                total = total / counts.rows
            self.accelerator.backward(total)
            parts = [*values.losses.values(), *values.metrics.values()]
            sums += torch.stack([part.detach().sum().float() for part in parts])
        sum_gradients(self.parameters, self.accelerator)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")  # type: ignore[assignment]
        return sums

    def _clip(self) -> Float[Tensor, ""]:
        """Clip the gradients; returns their norm before that.

        It is not finite where fp16 overflowed: its scaler then skips the step.
        """
        most = self.options.max_grad_norm or float("inf")
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, most)  # type: ignore[arg-type, assignment]
        return norm

    def _update(self, lr: float, norm: float, number: int) -> None:
        """One step of the optimizer, with gradients of this norm."""
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < MIN_LOSS_SCALE):
            raise self._diverged(number, f"gradient norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()

    def check_weights(self, step: int) -> None:
        """Raise TrainingError where weights are no longer finite."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise self._diverged(step, "weights are not finite")

    def _diverged(self, number: int, what: str) -> TrainingError:
        options = self.options
        other = "" if options.mixed_precision == "no" else ", or trainer.mixed_precision=no"
        return TrainingError(
            f"training diverged at step {number}: {what}. The last checkpoint is untouched; try a "
            f"lower trainer.lr (now {options.lr:g}) or trainer.max_grad_norm (now "
            f"{options.max_grad_norm}){other}"
        )

    def _sum(self, numbers: list[Any]) -> list[Any]:
        """Numbers summed over all processes."""
        if self.accelerator.num_processes == 1:
            return numbers
        kind = torch.long if isinstance(numbers[0], int) else torch.float32
        own = torch.tensor(numbers, dtype=kind, device=self.accelerator.device)
        summed: Any = self.accelerator.reduce(own, reduction="sum")
        return summed.tolist()


# Schedules: functions of the step alone.


def learning_rate(options: TrainerOptions, step: int, num_steps: int) -> float:
    """Learning rate of step `step` in [0, num_steps).

    linear:           lr + (min_lr - lr) * step / (num_steps - 1)
    linear_w_warmup:  lr * (step + 1) / warmup, then linear over what is left
    constant:         lr
    """
    if options.lr_schedule == "constant":
        return options.lr
    warmup = 0
    if options.lr_schedule == "linear_w_warmup":
        warmup = max(1, round(options.warmup_ratio * num_steps))
        if step < warmup:
            return options.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup - 1)
    return options.lr + (options.min_lr - options.lr) * min(1.0, done)


def temperature(schedule: TemperatureSchedule, step: int, num_steps: int) -> float:
    """Sampling temperature of a step.

    exponential:  start * (end / start) ^ done
    linear:       start + (end - start) * done
    constant:     start
    """
    done = min(1.0, step / max(1, num_steps - 1))
    if schedule.schedule == "constant":
        return schedule.start
    if schedule.schedule == "linear":
        return schedule.start + (schedule.end - schedule.start) * done
    return schedule.start * math.exp(done * math.log(schedule.end / schedule.start))


# Parameters, their optimizer, and their gradients over processes.


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def parameter_groups(model: AutoGaze, task: Task, options: TrainerOptions) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer; `factor` scales a group's learning rate."""
    groups: list[dict[str, Any]] = []
    if options.train_gaze:
        stem = trained_parameters(model.gazing_model.vision_model)
        in_stem = {id(parameter) for parameter in stem}
        rest = [p for p in trained_parameters(model) if id(p) not in in_stem]
        groups.append({"params": stem, "factor": options.vision_lr_factor})
        groups.append({"params": rest, "factor": 1.0})
    if options.train_task:
        groups.append({"params": trained_parameters(task), "factor": 1.0})
    return groups


def make_optimizer(
    groups: Sequence[dict[str, Any]], options: TrainerOptions
) -> torch.optim.Optimizer:
    """Adam, AdamW (decoupled weight decay) or SGD."""
    betas = (options.betas[0], options.betas[1])
    common: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if all(parameter.is_cuda for group in groups for parameter in group["params"]):
        common["fused"] = True  # few launches; on a CPU old trainings go on with the same bits
    if options.optimizer == "sgd":
        return torch.optim.SGD(list(groups), momentum=options.momentum, **common)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(list(groups), betas=betas, **common)


def clear_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero all gradients. They are never None, so that an unused parameter is treated alike by
    one process and by many.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def sum_gradients(parameters: Sequence[nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum the gradients of all processes, in one message.

    Each process's gradients are of a sum over its own rows divided by the rows of all, so
    their sum is the gradient of the mean.
    """
    if accelerator.num_processes == 1 or not parameters:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    summed: Tensor = accelerator.reduce(flat, reduction="sum")  # type: ignore[assignment]
    parts = summed.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
