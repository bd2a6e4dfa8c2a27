"""One step of training: lessons, counts, gradients, optimizer."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autogaze.errors import TrainingError
from autogaze.training.checkpoints import TrainingState
from autogaze.training.gradients import (
    clear_gradients,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
    sum_over_processes,
)
from autogaze.training.learner import BatchCounts, Learner
from autogaze.training.lesson import Lesson
from autogaze.training.loader import PlacedBatch
from autogaze.training.moment import Moment
from autogaze.training.options import TrainerOptions
from autogaze.training.progress import Stopwatch
from autogaze.training.schedules import learning_rate, temperature
from autogaze.training.unreadable import check_share, report

if TYPE_CHECKING:
    from accelerate import Accelerator


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
