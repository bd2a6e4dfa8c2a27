"""Going on where a training was interrupted."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.checkpoints import (
    CANNOT_SAVE,
    Checkpoints,
    TrainingState,
    load_gaze,
    load_task,
    read_optimizer,
    read_training_state,
)
from autogaze.training.config import Settings
from autogaze.utils.checkpoints import read_state

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        state: how far it is.
        checkpoint: what it was taken from, if anything.
        algorithm: that made the checkpoint, where another one goes on: it took the weights,
            and nothing else.
    """

    state: TrainingState
    checkpoint: Path | None = None
    algorithm: str | None = None

    @property
    def continues(self) -> bool:
        """Whether an interrupted training goes on; else one begins."""
        return self.checkpoint is not None and self.algorithm is None


def restore(
    checkpoint: Path,
    fresh: TrainingState,
    settings: Settings,
    model: AutoGaze,
    task: Task | None,
    optimizer: Any,
    accelerator: "Accelerator",
) -> Start:
    """Put everything back that a checkpoint holds; of another algorithm's only the weights.

    Args:
        fresh: how this training would start; says what the order of clips follows from.
        settings: of this training.
        task: where it is trained.
        optimizer: None where nothing is trained.

    Raises:
        CheckpointError: it cannot be read, is of another architecture, or of an algorithm
            that leaves nothing to go on from.
    """
    state, earlier = read_training_state(checkpoint), Settings.load(checkpoint)
    if optimizer is not None and earlier is not None and earlier.algorithm != settings.algorithm:
        _check_passes_on(checkpoint, earlier, settings)
        load_gaze(model, checkpoint / "gaze")
        if task is not None and (checkpoint / "task").is_dir():
            load_task(task, checkpoint / "task")
        return Start(fresh, checkpoint, earlier.algorithm)
    load_gaze(model, checkpoint / "gaze")
    if task is not None:
        load_task(task, checkpoint / "task")
    if optimizer is not None:
        _restore_optimizer(optimizer, checkpoint, accelerator)
        if accelerator.is_main_process:
            _report_differences(earlier, settings)
            _report_order(state, fresh)
    state = TrainingState(
        state.step, fresh.num_clips, fresh.batch_size, fresh.seed, state.seen, state.unreadable
    )
    return Start(state, checkpoint)


def _check_passes_on(checkpoint: Path, earlier: Settings, settings: Settings) -> None:
    """Raise CheckpointError where one algorithm's training leaves another's nothing to take."""
    if not (earlier.teaches and settings.teaches):
        raise CheckpointError(
            f"trainer.resume: {checkpoint} is of a training by algorithm {earlier.algorithm}, this "
            f"one is by {settings.algorithm}, and no selector learns in both; name what to start "
            "from in trainer.gaze_weights, trainer.task_weights or task.recon_model instead"
        )


def _report_differences(earlier: Settings | None, settings: Settings) -> None:
    if earlier is None:
        log.info("the checkpoint does not say with which options it was made")
        return
    differences = settings.differences(earlier)
    if differences:
        log.warning("resuming with other options than the checkpoint's:")
    for difference in differences:
        log.warning("  %s", difference)


def _restore_optimizer(optimizer: Any, checkpoint: Path, accelerator: "Accelerator") -> None:
    """What the optimizer remembers; its settings are this training's own."""
    saved = read_optimizer(checkpoint)
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    kind = optimizer_kind(optimizer)
    try:
        if saved["kind"] != kind:
            raise ValueError(f"it was {saved['kind']}, this is {kind}")
        optimizer.load_state_dict(saved["optimizer"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint}: its optimizer is of another training (trainer.optimizer, "
            f"train_gaze or train_task differ): {error}"
        ) from error
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    if accelerator.scaler is not None and "scaler" in saved:
        accelerator.scaler.load_state_dict(saved["scaler"])


def optimizer_kind(optimizer: Any) -> str:
    """Adam, say, also where Accelerate has wrapped it."""
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def newest_good(candidates: list[Path]) -> Path | None:
    """The first checkpoint whose files are all there and readable; others are reported."""
    for checkpoint in candidates:
        try:
            _read_all(checkpoint)
        except CheckpointError as error:
            log.error("%s; trying an older checkpoint", error)
            continue
        return checkpoint
    if candidates:
        raise CheckpointError(f"{candidates[0].parent}: none of its checkpoints can be read")
    return None


def refuse_newer(checkpoints: Checkpoints, step: int) -> None:
    """Raise TrainingError where this training would come upon checkpoints of another one.

    Unreadable ones are put aside under another name.
    """
    for checkpoint in checkpoints.all()[::-1]:
        number = int(checkpoint.name.removeprefix("step-"))
        if number <= step:
            continue
        try:
            _read_all(checkpoint)
        except CheckpointError:
            with suppress(OSError):  # another process was faster
                os.replace(checkpoint, checkpoint.with_name(f"broken-{checkpoint.name}"))
            continue
        raise TrainingError(
            f"{checkpoints.folder} already holds a checkpoint of step {number}: set "
            "trainer.resume=True to go on from it, or choose another trainer.exp_name"
        )


def _report_order(earlier: TrainingState, fresh: TrainingState) -> None:
    for name in ("num_clips", "batch_size", "seed"):
        was, now = getattr(earlier, name), getattr(fresh, name)
        if was != now:
            log.warning(
                "resuming with %s=%s where it was %s: clips come in another order than "
                "they would have",
                name,
                now,
                was,
            )


def refuse_own(checkpoints: Checkpoints, start: Start, algorithm: str) -> None:
    """Raise TrainingError where another algorithm would go on in one experiment's folder."""
    if start.algorithm is not None and is_own(checkpoints, start.checkpoint):
        raise TrainingError(
            f"{checkpoints.folder} holds a training by algorithm {start.algorithm}, this one is "
            f"by {algorithm}: choose another trainer.exp_name, and start from what was learned "
            f"by trainer.gaze_weights={checkpoints.folder / 'checkpoint_latest_gaze'}"
        )


def is_own(checkpoints: Checkpoints, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is one of this experiment's."""
    own = checkpoints.steps_folder.resolve()
    return checkpoint is not None and checkpoint.resolve().parent == own


def mend_latest(checkpoints: Checkpoints, checkpoint: Path) -> None:
    """Make a checkpoint the latest where a killed process left an older one.

    On a disk that is full an error is logged: the next checkpoint will be the latest.
    """
    try:
        checkpoints.mend_latest(checkpoint)
    except CANNOT_SAVE as error:
        log.error("the latest weights cannot be brought up to %s: %s", checkpoint, error)


def _read_all(checkpoint: Path) -> None:
    """Raise CheckpointError where a checkpoint is damaged."""
    read_training_state(checkpoint)
    Settings.load(checkpoint)
    read_state(checkpoint / "gaze" / "model.safetensors")
    if (checkpoint / "task").is_dir():
        read_state(checkpoint / "task" / "model.safetensors")
    read_optimizer(checkpoint)
