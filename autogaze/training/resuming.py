"""Resuming: where a training starts, and what differs from the one that it continues."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogaze.errors import CheckpointError, TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.checkpoints import Checkpoints, TrainingState, load_gaze, load_task
from autogaze.training.config import (
    AlgorithmOptions,
    TrainerOptions,
    flattened,
)
from autogaze.training.option_names import with_our_names
from autogaze.utils.checkpoints import read_state, read_torch_file

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        checkpoint: what it was read from, if anything.
        algorithm: of the checkpoint, where this training's is another one: only the weights
            were read.
    """

    state: TrainingState
    checkpoint: Path | None = None
    algorithm: str | None = None

    @property
    def continues(self) -> bool:
        """Whether an interrupted training goes on; else one begins."""
        return self.checkpoint is not None and self.algorithm is None


def newest_readable(candidates: list[Path]) -> Path | None:
    """The first checkpoint whose files are all readable; damaged ones are logged.

    Raises:
        CheckpointError: none of them is.
    """
    for checkpoint in candidates:
        try:
            check_readable(checkpoint)
        except CheckpointError as error:
            log.error("%s; trying an older checkpoint", error)
            continue
        return checkpoint
    if candidates:
        raise CheckpointError(f"{candidates[0].parent}: none of its checkpoints can be read")
    return None


def check_readable(checkpoint: Path) -> None:
    """Raise CheckpointError where a checkpoint is damaged."""
    TrainingState.load(checkpoint)
    read_options(checkpoint)
    for part in ("gaze", "task"):
        if part == "gaze" or (checkpoint / part).is_dir():
            read_state(checkpoint / part / "model.safetensors")
    read_torch_file(checkpoint / "optimizer.pt")


def restore(
    checkpoint: Path,
    fresh: TrainingState,
    options: Mapping[str, Any],
    model: AutoGaze,
    task: Task | None,
    optimizer: Any,
    accelerator: "Accelerator",
) -> Start:
    """Load what a checkpoint holds; of another algorithm's only the weights.

    Args:
        fresh: the state that this training would start with; the order of clips follows from it.
        options: of this training, as `options_to_save` gives them.
        task: where it is trained.
        optimizer: None where nothing is trained.

    Raises:
        CheckpointError: it cannot be read, is of another architecture, or of an algorithm
            that leaves no weights to start from.
    """
    state, earlier = TrainingState.load(checkpoint), read_options(checkpoint)
    other = None  # the checkpoint's algorithm, where it is another
    if optimizer is not None and earlier is not None:
        was, now = earlier["algorithm"]["name"], options["algorithm"]["name"]
        other = was if was != now else None
        if other and not (earlier["trainer"]["train_gaze"] and options["trainer"]["train_gaze"]):
            raise CheckpointError(
                f"trainer.resume: {checkpoint} was trained by algorithm {was}, this training is "
                f"by {now}, and only one of them trains a selector; name initial weights in "
                "trainer.gaze_weights, trainer.task_weights or task.recon_model"
            )
    load_gaze(model, checkpoint / "gaze")
    if task is not None and (other is None or (checkpoint / "task").is_dir()):
        load_task(task, checkpoint / "task")
    if other is not None:
        return Start(fresh, checkpoint, other)
    if optimizer is not None:
        _restore_optimizer(optimizer, checkpoint, accelerator)
        if accelerator.is_main_process:
            _report_differences(earlier, options, state, fresh)
    return Start(
        replace(fresh, step=state.step, seen=state.seen, unreadable=state.unreadable), checkpoint
    )


def _restore_optimizer(optimizer: Any, checkpoint: Path, accelerator: "Accelerator") -> None:
    """Load the optimizer's state; its hyperparameters are this training's own."""
    saved = read_torch_file(checkpoint / "optimizer.pt")
    own_groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    kind = optimizer_kind(optimizer)
    try:
        if saved["kind"] != kind:
            raise ValueError(f"it was {saved['kind']}, this is {kind}")
        # Where a fused optimizer counts its steps is decided by the groups that are loaded.
        for group, own in zip(saved["optimizer"]["param_groups"], own_groups, strict=True):
            group["fused"] = own.get("fused")
        optimizer.load_state_dict(saved["optimizer"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint}: its optimizer is of another training (trainer.optimizer, "
            f"train_gaze or train_task differ): {error}"
        ) from error
    for group, own in zip(optimizer.param_groups, own_groups, strict=True):
        group.update(own)
    if accelerator.scaler is not None and "scaler" in saved:
        accelerator.scaler.load_state_dict(saved["scaler"])


def optimizer_kind(optimizer: Any) -> str:
    """Class name of an optimizer, also where Accelerate has wrapped it."""
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def refuse_conflicts(checkpoints: Checkpoints, start: Start, algorithm: str) -> None:
    """Raise TrainingError where a training would write over checkpoints of another one.

    Unreadable newer ones are put aside under another name.
    """
    if start.algorithm is not None and is_own(checkpoints, start.checkpoint):
        raise TrainingError(
            f"{checkpoints.folder} holds a training by algorithm {start.algorithm}, this one is "
            f"by {algorithm}: choose another trainer.exp_name, and start from its weights "
            f"by trainer.gaze_weights={checkpoints.folder / 'checkpoint_latest_gaze'}"
        )
    for checkpoint in checkpoints.all()[::-1]:
        number = int(checkpoint.name.removeprefix("step-"))
        if number <= start.state.step:
            continue
        try:
            check_readable(checkpoint)
        except CheckpointError:
            with suppress(OSError):  # another process was faster
                os.replace(checkpoint, checkpoint.with_name(f"broken-{checkpoint.name}"))
            continue
        raise TrainingError(
            f"{checkpoints.folder} already holds a checkpoint of step {number}: set "
            "trainer.resume=True to go on from it, or choose another trainer.exp_name"
        )


def is_own(checkpoints: Checkpoints, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is one of this experiment's."""
    own = checkpoints.steps_folder.resolve()
    return checkpoint is not None and checkpoint.resolve().parent == own


# The options that a checkpoint was trained with.

RUN_OPTIONS = (
    *("exp_name", "exp_folder", "resume", "val_only", "num_workers", "device", "tracker"),
    *("log_nsteps", "save_nsteps", "val_nsteps", "val_clips", "val_ratios", "val_pictures"),
    *("gaze_weights", "task_weights", "shared_positions"),  # a checkpoint's are taken
)
"""Options of the group `trainer` that change nothing in a training that is resumed."""


def options_to_save(
    trainer: TrainerOptions, algorithm: AlgorithmOptions, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Options of a training by group, as JSON has them: `options.json` of its checkpoints.

    Args:
        config: the other groups, as the configuration gives them.
    """
    own = {"trainer": asdict(trainer), "algorithm": asdict(algorithm)}
    return json.loads(json.dumps({**(config or {}), **own}, default=str))


def read_options(checkpoint: Path) -> dict[str, Any] | None:
    """Options that a checkpoint was trained with; None where it has none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = checkpoint / "options.json"
    if not path.is_file():
        return None
    try:
        options = with_our_names(json.loads(path.read_text()), warn=False)
        name, _ = options["algorithm"]["name"], options["trainer"]["train_gaze"]
        if name == "grpo":  # written before the option was there
            options["algorithm"].setdefault("policy", "as_released")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the options of a training: {error!r}") from error
    return options


def differences(options: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Options with other values than earlier: `trainer.lr=0.1 (was 0.5)`."""
    found = []
    for group in options.keys() & earlier.keys():
        now, was = (dict(flattened(groups[group], group)) for groups in (options, earlier))
        # These two are always complete: what one lacks did not exist in its release.
        complete = group in ("trainer", "algorithm")
        names = now.keys() & was.keys() if complete else now.keys() | was.keys()
        for name in names - {f"trainer.{name}" for name in RUN_OPTIONS}:
            if now.get(name) != was.get(name):
                found.append(f"{name}={_text(now.get(name))} (was {_text(was.get(name))})")
    return sorted(found)


def _report_differences(
    earlier: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    state: TrainingState,
    fresh: TrainingState,
) -> None:
    """Log what is different from the training that is resumed."""
    if earlier is None:
        log.info("the checkpoint has no options.json: options cannot be compared")
    elif found := differences(options, earlier):
        log.warning("resuming with other options than the checkpoint's:")
        for difference in found:
            log.warning("  %s", difference)
    for name in ("num_clips", "batch_size", "seed"):
        was, now = getattr(state, name), getattr(fresh, name)
        if was != now:
            log.warning(
                "resuming with %s=%s where it was %s: the order of clips changes", name, now, was
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
