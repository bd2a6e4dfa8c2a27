"""Going on where a training was interrupted."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.reconstruction.video_mae.checkpoint import read_state
from autogaze.tasks.base import Task
from autogaze.training.checkpoints import (
    Checkpoints,
    TrainingState,
    read_optimizer,
    read_training_state,
)
from autogaze.training.weights import load_gaze, load_task

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")


def restore(
    checkpoint: Path,
    fresh: TrainingState,
    model: AutoGaze,
    task: Task | None,
    optimizer: Any,
    accelerator: "Accelerator",
) -> TrainingState:
    """Put everything back that a checkpoint holds.

    Args:
        fresh: how this training would start; says what the order of clips follows from.
        task: where it is trained.

    Raises:
        CheckpointError: it cannot be read, or is of another architecture.
    """
    state = read_training_state(checkpoint)
    load_gaze(model, checkpoint / "gaze")
    if task is not None:
        load_task(task, checkpoint / "task")
    if optimizer is not None:
        _restore_optimizer(optimizer, checkpoint, accelerator)
    for name in ("num_clips", "batch_size", "seed"):
        was, now = getattr(state, name), getattr(fresh, name)
        if was != now:
            log.warning(
                "resuming with %s=%s where it was %s: clips come in another order than "
                "they would have",
                name,
                now,
                was,
            )
    log.info("resuming from %s, step %d", checkpoint, state.step)
    return TrainingState(
        state.step, fresh.num_clips, fresh.batch_size, fresh.seed, state.seen, state.unreadable
    )


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
    for checkpoint in checkpoints.all():
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


def _read_all(checkpoint: Path) -> None:
    """Raise CheckpointError where a checkpoint is damaged."""
    read_training_state(checkpoint)
    read_state(checkpoint / "gaze" / "model.safetensors")
    if (checkpoint / "task").is_dir():
        read_state(checkpoint / "task" / "model.safetensors")
    read_optimizer(checkpoint)
