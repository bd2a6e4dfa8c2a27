"""One step of training: lessons, counts, gradients, optimizer."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autogaze.datasets.clip import UnreadableClip
from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.checkpoints import TrainingState
from autogaze.training.config import TemperatureSchedule, TrainerOptions
from autogaze.training.loader import Moment, PlacedBatch
from autogaze.training.losses import BatchCounts, Learner
from autogaze.training.progress import Stopwatch
from autogaze.training.rollouts import Lesson

if TYPE_CHECKING:
    from accelerate import Accelerator


# Clips that could not be read: named, counted, and too many of them end training.

log = logging.getLogger("autogaze.training")

ENOUGH = 200
"""Clips after which a share of them means something."""


def report(clips: Sequence[UnreadableClip], folder: Path) -> None:
    """Name them in the log and in `unreadable.jsonl`."""
    for clip in clips:
        log.warning("skipped %s: %s", clip.name, clip.cause)
    if clips:
        try:
            with (folder / "unreadable.jsonl").open("a") as file:
                file.writelines(json.dumps(asdict(clip)) + "\n" for clip in clips)
        except OSError as error:
            log.error("%s: cannot be written: %s", folder / "unreadable.jsonl", error)


def check_share(unreadable: int, seen: int, planned: int, most: float) -> None:
    """Raise TrainingError where too many clips were unreadable.

    Judged once `ENOUGH` clips were seen; before, only where even these could not all be
    forgiven. A training of fewer clips is judged as a whole.
    """
    if unreadable > most * max(seen, min(ENOUGH, planned)):
        share = math.ceil(100 * unreadable / seen) / 100
        forgiven = f", or set dataset.max_unreadable={share:g} to do without them"
        raise TrainingError(
            f"{unreadable} of {seen} clips could not be read, more than "
            f"dataset.max_unreadable={most:g} allows; unreadable.jsonl, in the folder of the "
            "experiment, names them and says why: repair these files or take them away"
            + (forgiven if unreadable < seen else "")
        )


# Gradients of all processes together, and the optimizer they go to.


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


# Learning rate and sampling temperature: functions of how far training is, nothing else.


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


LEAST_SCALE = 1.0
"""Of fp16: where its scaler got below it, gradients overflow for another reason than it."""


class Stepper:
    """Does steps; all that it carries from one to the next is weights and the optimizer.

    Args:
        num_steps: of the whole training, for the schedules.
        max_unreadable: share of clips that may be unreadable.
        folder: where unreadable clips are listed.
    """

    def __init__(
        self,
        learner: Learner,
        accelerator: "Accelerator",
        options: TrainerOptions,
        num_steps: int,
        max_unreadable: float,
        folder: Path,
    ) -> None:
        self.learner, self.accelerator, self.options = learner, accelerator, options
        self.num_steps, self.max_unreadable, self.folder = num_steps, max_unreadable, folder
        groups = parameter_groups(learner.model, learner.task, options)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare(make_optimizer(groups, options))
        self.stopwatch = Stopwatch()

    def step(
        self, state: TrainingState, batches: Sequence[PlacedBatch]
    ) -> tuple[TrainingState, dict[str, float]]:
        """Learn from a batch, which comes in micro-batches; returns what was measured.

        Raises:
            TrainingError: too many unreadable clips, or a loss or gradients that are not
                finite; the weights are then as they were.
        """
        heat = temperature(self.options.temp_schedule_args, state.step, self.num_steps)
        moment = Moment(self.options.seed, state.step, heat)
        with self.stopwatch.stage("gazing"):
            made = [self.learner.lesson(batch, moment) for batch in batches]
        lessons = [lesson for lesson in made if lesson is not None]
        counts, state = self._count(lessons, batches, state)
        lr = learning_rate(self.options, state.step, self.num_steps)
        metrics = {"lr": lr, "gazes": counts.gazes / max(1, counts.rows)}
        if self.learner.recipe.samples:
            metrics["temperature"] = heat
        if counts.rows:
            clear_gradients(self.parameters)
            with self.stopwatch.stage("forward and backward"):
                measured = self._backward(lessons, counts)
            for name, value in measured.items():
                if not math.isfinite(value):
                    raise self._diverged(state.step + 1, f"{name} is {value}")
            norm = self._descend(lr, state.step + 1)
            metrics |= measured | ({"gradient_norm": norm} if math.isfinite(norm) else {})
        return replace(state, step=state.step + 1), metrics

    def _count(
        self, lessons: Sequence[Lesson], batches: Sequence[PlacedBatch], state: TrainingState
    ) -> tuple[BatchCounts, TrainingState]:
        """What all processes hold together; fails where too many clips were unreadable."""
        unreadable = [clip for batch in batches for clip in batch.clips.unreadable]
        report(unreadable, self.folder)
        rows, gazes, known, seen, lost = self._summed(
            [
                sum(lesson.num_rows for lesson in lessons),
                sum(lesson.num_gazes for lesson in lessons),
                sum(lesson.num_known for lesson in lessons),
                sum(len(batch) for batch in batches) + len(unreadable),
                len(unreadable),
            ]
        )
        state = replace(state, seen=state.seen + int(seen), unreadable=state.unreadable + int(lost))
        planned = self.num_steps * self.options.batch_size
        check_share(state.unreadable, state.seen, planned, self.max_unreadable)
        return BatchCounts(int(rows), int(gazes), int(known)), state

    def _backward(self, lessons: Sequence[Lesson], counts: BatchCounts) -> dict[str, float]:
        """Gradients of the mean over all rows of all processes, and what was measured."""
        learner = self.learner
        sums = torch.zeros(4, device=learner.device)
        for lesson in lessons:
            with self.accelerator.autocast():
                losses = learner.losses(lesson, counts)
                total = losses.total() / counts.rows
            self.accelerator.backward(total)
            for place, part in enumerate((losses.gaze, losses.task, losses.hints)):
                if part is not None:
                    sums[place] += part.detach().sum()
            if lesson.reward is not None:
                sums[3] += lesson.reward.mean(1).sum()
        sum_over_processes(self.parameters, self.accelerator)
        means = [value / counts.rows for value in self._summed(sums.tolist())]
        hints = learner.train_gaze and learner.recipe.options.hint_weight > 0
        wanted = (learner.train_gaze, learner.train_task, hints, learner.recipe.samples)
        names = ("loss", "task_loss", "hint_loss", "reward")
        return {n: mean for n, mean, ok in zip(names, means, wanted, strict=True) if ok}

    def _descend(self, lr: float, number: int) -> float:
        """One step of the optimizer; returns the norm of the gradient before clipping.

        It is not finite where fp16 overflowed: its scaler then skips the step.
        """
        most = self.options.max_grad_norm or float("inf")
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, most))  # type: ignore[arg-type]
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < LEAST_SCALE):
            raise self._diverged(number, f"the gradient's norm is {norm}")
        set_learning_rate(self.optimizer, lr)
        self.optimizer.step()
        return norm

    def check_weights(self, step: int) -> None:
        """Raise TrainingError where weights are no longer finite."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            raise self._diverged(step, "weights are not finite")

    def _diverged(self, number: int, what: str) -> TrainingError:
        options = self.options
        other = "" if options.mixed_precision == "no" else ", or trainer.mixed_precision=no"
        return TrainingError(
            f"training diverged, step {number}: {what}. The last checkpoint is untouched; try a "
            f"lower trainer.lr (now {options.lr:g}) or trainer.max_grad_norm (now "
            f"{options.max_grad_norm}){other}"
        )

    def _summed(self, numbers: list[Any]) -> list[Any]:
        """Numbers added up over all processes."""
        if self.accelerator.num_processes == 1:
            return numbers
        kind = torch.long if isinstance(numbers[0], int) else torch.float32
        own = torch.tensor(numbers, dtype=kind, device=self.accelerator.device)
        summed: Any = self.accelerator.reduce(own, reduction="sum")
        return summed.tolist()
