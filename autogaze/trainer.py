"""The trainer: selectors, judges, or both, on one processor or many.

A step: every process makes the lessons of its slice of the batch, all together count
what these hold, every process goes backward, gradients are added up, the optimizer steps.
What is random follows from the seed and the step, so a training that was interrupted
goes on as if it had not been.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.algorithms import Recipe
from autogaze.training.checkpoints import (
    CANNOT_SAVE,
    Checkpoints,
    TrainingState,
    check_folder,
)
from autogaze.training.config import Settings, TrainerOptions
from autogaze.training.launch import make_accelerator
from autogaze.training.loader import PlacedBatch, StepSampler, TrainingData, make_loader
from autogaze.training.logging import Journal, Means, Tracking
from autogaze.training.losses import Learner
from autogaze.training.progress import Progress, announce, wrapped
from autogaze.training.resuming import (
    Start,
    is_own,
    mend_latest,
    newest_good,
    optimizer_kind,
    refuse_newer,
    refuse_own,
    restore,
)
from autogaze.training.step import Stepper
from autogaze.training.validation import Validation

log = logging.getLogger("autogaze.training")


class Trainer:
    """Trains a selector, a judge, or both.

    Args:
        model, task, recipe: what learns, what it is for, and how.
        data: what from.
        options: everything else.
        config: all options, for the tracker and `config.json`.

    Raises:
        TrainingError: what cannot work, before any training.
        MissingExtraError: Accelerate or the tracker is not installed.
    """

    def __init__(
        self,
        model: AutoGaze,
        task: Task,
        recipe: Recipe,
        data: TrainingData,
        options: TrainerOptions,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.options, self.data, self.config = options, data, config
        self.folder = Path(options.exp_folder) / options.exp_name
        self.accelerator = make_accelerator(options, self.folder)
        options.slice_of(self.accelerator.num_processes)  # refuses what cannot be divided
        check_folder(self.folder)
        trains = not options.val_only
        self.learner = Learner(
            model,
            task,
            recipe,
            self.accelerator.device,
            train_gaze=options.train_gaze and trains,
            train_task=options.train_task and trains,
        )
        self.num_clips = len(data.train)  # type: ignore[arg-type]
        self.num_steps = options.num_steps(self.num_clips)
        self.checkpoints = Checkpoints(self.folder)
        algorithm = replace(recipe.options, name=recipe.name)
        self.settings = Settings.of(options, algorithm, config)
        tracking = Tracking(self.folder, self.accelerator, options.tracker, config or {})
        writes = self.accelerator.is_main_process
        self.journal = Journal(self.folder, tracking, writes=writes, trains=trains)
        self.stepper = None
        if trains:
            self.stepper = Stepper(
                self.learner,
                self.accelerator,
                options,
                self.num_steps,
                data.max_unreadable,
                self.folder,
            )
        self.saved = True

    def fit(self) -> TrainingState:
        """Train to the end, or only validate; returns how far training is.

        Raises:
            CheckpointError: nothing can be resumed from where `resume` says.
            TrainingError: too many unreadable clips, losses, gradients or weights that are not
                finite, or weights that could not be saved.
        """
        start = self._start()
        state = start.state
        if self.accelerator.is_main_process:
            announce(self.learner, self.accelerator, self.options, self.data, start, self.num_steps)
        if self.stepper is None:
            self._validate(state.step)
        else:
            if self.config is not None and state.step < self.num_steps:
                self.journal.keep_options(self.config)
            if self._validates_after(state.step) and not self._has_validated(state.step):
                self._validate(state.step)
            state = self._train(state, self.stepper)
        self.journal.close()
        if not self.saved:
            raise TrainingError(f"{self.folder}: the trained weights could not be saved")
        return state

    def _train(self, state: TrainingState, stepper: Stepper) -> TrainingState:
        """All steps that are left."""
        options, first, last = self.options, state.step, self.num_steps
        progress = Progress(state.step, last, shown=self.accelerator.is_main_process)
        micro_batches = self._micro_batches(state.step)
        means = Means()
        stepper.stopwatch.read(state.step)
        while state.step < last:
            with stepper.stopwatch.stage("waiting"):
                batches = next(micro_batches)
            state, measured = stepper.step(state, batches)
            means.add(measured)
            done = state.step == last
            if done or state.step % options.log_nsteps == 0:
                values = means.take() | self._speed(stepper, state)
                self.journal.write(state.step, values)
                progress.report(state.step, values)
            elif state.step == first + 1:
                progress.report(state.step, measured)
            if done or (options.save_nsteps and state.step % options.save_nsteps == 0):
                self._save(state, stepper)
            if self._validates_after(state.step):
                progress.end()
                with stepper.stopwatch.paused():
                    self._validate(state.step)
        progress.end()
        return state

    def _micro_batches(self, first: int) -> Iterator[list[PlacedBatch]]:
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
        pin = self.accelerator.device.type == "cuda"
        workers = self.options.num_workers
        loader = iter(make_loader(self.data.train, sampler, workers, pin_memory=pin))
        for _ in range(first, self.num_steps):
            yield [next(loader) for _ in range(sampler.micro_batches)]

    def _speed(self, stepper: Stepper, state: TrainingState) -> dict[str, float]:
        """Since the last time."""
        seconds, steps, shares = stepper.stopwatch.read(state.step)
        learning = shares.get("forward and backward", 0.0)
        speed = {
            "clips_per_second": steps * self.options.batch_size / seconds,
            "forward_backward_share": learning,
            "compute_share": learning + shares.get("gazing", 0.0),
            "waiting_share": shares.get("waiting", 0.0),
        }
        return speed | ({"unreadable": state.unreadable} if state.unreadable else {})

    def _save(self, state: TrainingState, stepper: Stepper) -> None:
        """Write a checkpoint; a disk that is full does not end training."""
        stepper.check_weights(state.step)
        if not self.accelerator.is_main_process:
            return
        optimizer: dict[str, Any] = {
            "kind": optimizer_kind(stepper.optimizer),
            "optimizer": stepper.optimizer.state_dict(),
        }
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        task = self.learner.task if self.learner.train_task else None
        try:
            self.checkpoints.save(state, self.learner.model, task, optimizer, self.settings)
            self.saved = True
        except CANNOT_SAVE as error:
            self.saved = False
            log.error(
                "the checkpoint of step %d could not be saved, training goes on and the last "
                "good one is untouched: %s",
                state.step,
                error,
            )

    def _start(self) -> Start:
        """Go on from a checkpoint, or start afresh."""
        main, trains = self.accelerator.is_main_process, self.stepper is not None
        start = Start(TrainingState(0, self.num_clips, self.options.batch_size, self.options.seed))
        if main and trains:
            self.checkpoints.clean()
        self.accelerator.wait_for_everyone()
        checkpoint = newest_good(self.checkpoints.find(self.options.resume))
        if checkpoint is not None:
            start = restore(
                checkpoint,
                start.state,
                self.settings,
                self.learner.model,
                self.learner.task if self.options.train_task else None,
                self.stepper and self.stepper.optimizer,
                self.accelerator,
            )
        if trains:
            refuse_own(self.checkpoints, start, self.learner.recipe.name)
            refuse_newer(self.checkpoints, start.state.step)
            self.journal.rewind(start.state.step if start.continues else -1)
            if main and checkpoint is not None and is_own(self.checkpoints, checkpoint):
                mend_latest(self.checkpoints, checkpoint)
        self.accelerator.wait_for_everyone()
        return start

    def _validates_after(self, step: int) -> bool:
        """Whether a validation is due after so many steps: also before the first, and at the end."""
        every = self.options.val_nsteps
        return bool(every) and (step % every == 0 or step == self.num_steps)

    def _has_validated(self, step: int) -> bool:
        """Whether that validation was made: it was not if training was killed before its end."""
        from accelerate.utils import broadcast_object_list

        answer = [self.accelerator.is_main_process and self.journal.validated(step)]
        broadcast_object_list(answer)  # the file may be the main process's alone
        return answer[0]

    def _validate(self, step: int) -> None:
        if self.data.val is None:
            return
        validation = Validation(
            self.learner,
            self.data.val,
            self.options,
            self.accelerator,
            self.data.max_unreadable,
        )
        metrics = validation.run(lambda name, picture: self.journal.show(step, name, picture))
        self.journal.write(step, metrics)
        self.journal.draw()
        if self.accelerator.is_main_process:
            numbers = [f"{name} {value:.4g}" for name, value in metrics.items()]
            for line in wrapped([f"step {step}", *numbers]):
                log.info("%s", line)
