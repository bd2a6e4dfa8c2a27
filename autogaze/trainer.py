"""Trainer: trains a selector, a task's model, or both, in one process or many.

A step (`autogaze.training.step`): every process makes the rollouts of its slice of the batch,
totals are summed over processes, every process computes gradients, these are summed, the
optimizer steps. Everything random follows from the seed and the step, so an interrupted training
resumes as if it had not been interrupted.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from autogaze.datasets.clip import ClipBatch
from autogaze.errors import MissingExtraError, TrainingError, first_line
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Algorithm
from autogaze.training.checkpoints import SAVE_ERRORS, Checkpoints, TrainingState, check_folder
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import StepSampler, TrainingData, make_loader
from autogaze.training.logging import MetricsLog, Tracker, check_tracker, mean_metrics
from autogaze.training.reporting import Progress, log_summary, wrapped
from autogaze.training.resuming import (
    Start,
    is_own,
    newest_readable,
    optimizer_kind,
    options_to_save,
    refuse_conflicts,
    restore,
)
from autogaze.training.step import Objective, TrainingStep
from autogaze.training.validation import Validation
from autogaze.utils.device import DeviceOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")


class Trainer:
    """Trains a selector, a task's model, or both.

    Args:
        model, task, algorithm: what is trained, for what, and by what.
        data: clips to train and to validate on.
        options: everything else.
        config: all options by group, for the tracker and `config.json`.

    Raises:
        TrainingError: what cannot work, before any training.
        MissingExtraError: Accelerate or the tracker is not installed.
    """

    def __init__(
        self,
        model: AutoGaze,
        task: Task,
        algorithm: Algorithm,
        data: TrainingData,
        options: TrainerOptions,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.options, self.data, self.config = options, data, config
        self.folder = options.folder
        self.accelerator = make_accelerator(options)
        options.clips_per_process(self.accelerator.num_processes)  # refuses what is indivisible
        check_folder(self.folder)
        trains = not options.val_only
        self.objective = Objective(
            model,
            task,
            algorithm,
            self.accelerator.device,
            train_gaze=options.train_gaze and trains,
            train_task=options.train_task and trains,
        )
        self.num_clips = len(data.train)  # type: ignore[arg-type]
        self.num_steps = options.num_steps(self.num_clips)
        self.checkpoints = Checkpoints(self.folder)
        algorithm_options = replace(algorithm.options, name=algorithm.name)
        self.saved_options = options_to_save(options, algorithm_options, config)
        tracker = Tracker(self.folder, self.accelerator, options.tracker, config or {})
        writes = self.accelerator.is_main_process
        self.metrics_log = MetricsLog(self.folder, tracker, writes=writes, trains=trains)
        self.step = None
        if trains:
            self.step = TrainingStep(
                self.objective,
                self.accelerator,
                options,
                self.num_steps,
                data.max_unreadable,
            )
        self.unsaved: Exception | None = None  # why the newest weights could not be saved

    def fit(self) -> TrainingState:
        """Train to the end, or only validate; returns the state reached.

        Raises:
            CheckpointError: nothing can be resumed from where `resume` points.
            TrainingError: too many unreadable clips, losses, gradients or weights that are not
                finite, or weights that could not be saved.
        """
        start = self._start()
        state = start.state
        if self.accelerator.is_main_process:
            trained = self.objective.trained
            log_summary(trained, self.accelerator, self.options, self.data, start, self.num_steps)
        if self.step is None:
            self._validate(state.step)
        else:
            if self.config is not None and state.step < self.num_steps:
                self.metrics_log.save_options(self.config)
            if self._validates_after(state.step) and not self._has_validated(state.step):
                self._validate(state.step)
            state = self._train(state, self.step)
        self.metrics_log.close()
        if self.unsaved is not None:
            raise TrainingError(
                f"{self.folder}: the trained weights could not be saved: {first_line(self.unsaved)}"
            ) from self.unsaved
        return state

    def _train(self, state: TrainingState, step: TrainingStep) -> TrainingState:
        """All remaining steps."""
        options, first, last = self.options, state.step, self.num_steps
        progress = Progress(first, last, active=self.accelerator.is_main_process)
        micro_batches = self._micro_batches(first)
        since_log: list[dict[str, float]] = []
        step.stopwatch.read(first)
        while state.step < last:
            with step.stopwatch.stage("waiting"):
                batches = next(micro_batches)
            state, measured = step(state, batches)
            since_log.append(measured)
            done = state.step == last
            if done or state.step % options.log_nsteps == 0:
                values = mean_metrics(since_log) | self._speed(step, state)
                since_log.clear()
                self.metrics_log.write(state.step, values)
                progress.report(state.step, values)
            elif state.step == first + 1:
                progress.report(state.step, measured)
            if done or (options.save_nsteps and state.step % options.save_nsteps == 0):
                self._save(state, step)
            if self._validates_after(state.step):
                progress.end()
                with step.stopwatch.paused():
                    self._validate(state.step)
        progress.end()
        return state

    def _micro_batches(self, first: int) -> Iterator[list[ClipBatch]]:
        """This process's part of every step, from a step on."""
        sampler = StepSampler(
            self.num_clips,
            self.options.batch_size,
            self.options.per_gpu_max_batch_size,
            self.options.seed,
            first=first,
            last=self.num_steps,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        workers, device = self.options.num_workers, self.accelerator.device
        loader = iter(make_loader(self.data.train, sampler, workers, device=device))
        for _ in range(first, self.num_steps):
            yield [next(loader) for _ in range(sampler.micro_batches)]

    def _speed(self, step: TrainingStep, state: TrainingState) -> dict[str, float]:
        """Clips per second and shares of the time, since the last call."""
        seconds, steps, shares = step.stopwatch.read(state.step)
        backward = shares.get("forward and backward", 0.0)
        speed = {
            "clips_per_second": steps * self.options.batch_size / seconds,
            "forward_backward_share": backward,
            "compute_share": backward + shares.get("gazing", 0.0),
            "waiting_share": shares.get("waiting", 0.0),
        }
        return speed | ({"unreadable": state.unreadable} if state.unreadable else {})

    def _save(self, state: TrainingState, step: TrainingStep) -> None:
        """Write a checkpoint; a full disk does not end training."""
        step.check_weights(state.step)
        if not self.accelerator.is_main_process:
            return
        optimizer: dict[str, Any] = {
            "kind": optimizer_kind(step.optimizer),
            "optimizer": step.optimizer.state_dict(),
        }
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        model, task = self.objective.model, self.objective.task
        trained_task = task if self.objective.train_task else None
        try:
            self.checkpoints.save(state, model, trained_task, optimizer, self.saved_options)
            self.unsaved = None
        except SAVE_ERRORS as error:
            self.unsaved = error
            log.error(
                "the checkpoint of step %d could not be saved, training goes on and the last "
                "good one is untouched: %s",
                state.step,
                error,
            )

    def _start(self) -> Start:
        """Resume from a checkpoint, or start afresh."""
        main, trains = self.accelerator.is_main_process, self.step is not None
        start = Start(TrainingState(0, self.num_clips, self.options.batch_size, self.options.seed))
        if main and trains:
            self.checkpoints.clean()
        self.accelerator.wait_for_everyone()
        checkpoint = newest_readable(self.checkpoints.find(self.options.resume))
        if checkpoint is not None:
            start = restore(
                checkpoint,
                start.state,
                self.saved_options,
                self.objective.model,
                self.objective.task if self.options.train_task else None,
                self.step and self.step.optimizer,
                self.accelerator,
            )
        if trains:
            refuse_conflicts(self.checkpoints, start, self.objective.algorithm.name)
            self.metrics_log.rewind(start.state.step if start.continues else -1)
            if main and checkpoint is not None and is_own(self.checkpoints, checkpoint):
                try:
                    self.checkpoints.restore_latest(checkpoint)
                except SAVE_ERRORS as error:  # the next checkpoint will be the latest
                    log.error("latest weights cannot be brought up to %s: %s", checkpoint, error)
        self.accelerator.wait_for_everyone()
        return start

    def _validates_after(self, step: int) -> bool:
        """Whether a validation is due after so many steps: also before the first, and at the end."""
        every = self.options.val_nsteps
        return bool(every) and (step % every == 0 or step == self.num_steps)

    def _has_validated(self, step: int) -> bool:
        """Whether that validation was made; not if training was killed before its end."""
        from accelerate.utils import broadcast_object_list

        answer = [self.accelerator.is_main_process and self.metrics_log.validated(step)]
        broadcast_object_list(answer)  # the file may be visible to the main process alone
        return answer[0]

    def _validate(self, step: int) -> None:
        if self.data.val is None:
            return
        validation = Validation(
            self.objective,
            self.data.val,
            self.options,
            self.accelerator,
            self.data.max_unreadable,
        )
        metrics = validation.run(
            lambda name, picture: self.metrics_log.save_picture(step, name, picture)
        )
        self.metrics_log.write(step, metrics)
        self.metrics_log.draw()
        if self.accelerator.is_main_process:
            numbers = [f"{name} {value:.4g}" for name, value in metrics.items()]
            for line in wrapped([f"step {step}", *numbers]):
                log.info("%s", line)


def make_accelerator(options: TrainerOptions) -> "Accelerator":
    """Accelerate, for one of the processes that `torchrun` or `accelerate launch` started.

    Raises:
        MissingExtraError: Accelerate, or the tracker that was asked for, is not installed.
        TrainingError: several processes were started, and they cannot work together.
        AutoGazeError: a GPU was asked for, and there is none.
    """
    if options.device == "cuda":
        DeviceOptions.parse("cuda")
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    check_tracker(options.tracker)
    started = int(os.environ.get("WORLD_SIZE") or 1)
    try:
        accelerator = Accelerator(
            # Without accelerators, processes are joined only if `cpu` is set.
            cpu=options.device == "cpu" or not torch.accelerator.is_available(),
            mixed_precision=options.mixed_precision,
            log_with=None if options.tracker == "none" else options.tracker,
            project_dir=str(options.folder),
        )
    except ValueError as error:
        if started == 1:
            raise
        # What the environment says of the processes is not enough.
        raise TrainingError(
            f"{started} processes were started (WORLD_SIZE), and Accelerate joined none of them: "
            f"{first_line(error)}"
        ) from error
    if started != accelerator.num_processes:
        raise TrainingError(
            f"{started} processes were started (WORLD_SIZE), and Accelerate joined "
            f"{accelerator.num_processes}: each would train by itself in one folder; start one "
            "process, or set trainer.device=cpu"
        )
    return accelerator


def leave_group() -> None:
    """End this process's part in a training of several: threads that outlive Python would abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
