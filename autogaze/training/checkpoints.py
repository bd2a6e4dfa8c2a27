"""Checkpoints: written under another name and renamed when complete, so that one always exists.

```
exps/<exp_name>/
  checkpoint_latest_gaze/           a folder for `from_pretrained`, the newest selector
  checkpoint_latest_task/           the newest task weights, where the task is trained
  checkpoints/step-00000500/        the newest two, each complete:
    gaze/  task/  optimizer.pt  state.json  options.json
```

Random states are not among them: everything random follows from the seed and the step.
"""

import filecmp
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from autogaze.errors import CheckpointError, OutputError, TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import AutoGazeImageProcessor
from autogaze.selectors.registry import LEARNED
from autogaze.tasks.base import Task
from autogaze.tasks.published import PublishedTask
from autogaze.utils.checkpoints import load_strictly, read_state, without_wrappers
from autogaze.utils.files import check_writable, replacing, replacing_folder
from autogaze.utils.hub import find_checkpoint
from autogaze.weights import SELECTOR

log = logging.getLogger("autogaze.training")

NUM_KEPT = 2
"""Number of checkpoints that are kept."""

SAVE_ERRORS = (OSError, RuntimeError, SafetensorError, OutputError)
"""What a full disk raises, depending on the writer: torch, safetensors, transformers."""


@dataclass(frozen=True)
class TrainingState:
    """Progress of a training, beside its weights.

    Attributes:
        step: steps done.
        num_clips, batch_size, seed: what the order of clips follows from.
        seen, unreadable: clips so far.
    """

    step: int
    num_clips: int
    batch_size: int
    seed: int
    seen: int = 0
    unreadable: int = 0

    @classmethod
    def load(cls, checkpoint: Path) -> "TrainingState":
        """Read that of a checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            return cls(**json.loads((checkpoint / "state.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{checkpoint}: not a checkpoint of training: {error}") from error


class Checkpoints:
    """The checkpoints of one experiment.

    Args:
        folder: `exps/<exp_name>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps_folder = folder / "checkpoints"

    def save(
        self,
        state: TrainingState,
        model: AutoGaze,
        task: Task | None,
        optimizer: dict[str, Any],
        options: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint, make it the latest, and remove old ones.

        Args:
            task: where it is trained.
            optimizer: its state dict, and whatever else belongs to optimisation.
            options: of the training, by group.

        Raises:
            OSError and others in `SAVE_ERRORS`: what was there before is untouched.
        """
        # May be there already: a run that was resumed from before it comes here again.
        target = self.steps_folder / f"step-{state.step:08d}"
        with replacing_folder(target) as temporary:
            save_gaze(model, temporary / "gaze")
            if task is not None:
                save_task(task, temporary / "task")
            torch.save(optimizer, temporary / "optimizer.pt")
            (temporary / "state.json").write_text(json.dumps(asdict(state)))
            (temporary / "options.json").write_text(json.dumps(options, indent=2) + "\n")
        self._make_latest(target)
        for old in self.all()[:-NUM_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def all(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(path for path in self.steps_folder.glob("step-*") if path.is_dir())

    def find(self, resume: bool | str) -> list[Path]:
        """Checkpoints that a training can be resumed from, best first.

        Args:
            resume: True for this experiment's, none if it has none yet; or the folder of
                an experiment or of a checkpoint.

        Raises:
            CheckpointError: a folder without checkpoints.
        """
        if resume is False:
            return []
        if resume is True:
            return self.all()[::-1]
        folder = Path(resume)
        if (folder / "state.json").is_file():
            return [folder]
        found = Checkpoints(folder).all()[::-1]
        if not found:
            raise CheckpointError(
                f"trainer.resume={resume}: neither a checkpoint (state.json) nor an experiment "
                "with checkpoints/step-*"
            )
        return found

    def clean(self) -> None:
        """Remove what an earlier process did not finish writing."""
        for path in self.steps_folder.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)
        for folder in (self.folder, *self.folder.glob("checkpoint_latest_*")):
            for path in folder.glob(".*.part*"):
                path.unlink(missing_ok=True)

    def restore_latest(self, checkpoint: Path) -> None:
        """Make this checkpoint the latest, unless it is.

        A process that was killed right after its last checkpoint left that of the one before.

        Raises:
            OSError and others in `SAVE_ERRORS`: what was there before is untouched.
        """
        if not all(
            latest.is_file() and filecmp.cmp(path, latest, shallow=False)
            for path, latest in self._latest_files(checkpoint)
        ):
            log.warning("%s: the latest weights are brought up to %s", self.folder, checkpoint.name)
            self._make_latest(checkpoint)

    def _make_latest(self, checkpoint: Path) -> None:
        """File by file, each replaced whole; in a training only the weights ever change."""
        for path, latest in self._latest_files(checkpoint):
            latest.parent.mkdir(exist_ok=True)
            with replacing(latest) as temporary:
                try:
                    os.link(path, temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, temporary)

    def _latest_files(self, checkpoint: Path) -> list[tuple[Path, Path]]:
        """Files of a checkpoint's weights, each with its path among the latest ones."""
        return [
            (path, self.folder / f"checkpoint_latest_{part}" / path.name)
            for part in ("gaze", "task")
            if (checkpoint / part).is_dir()
            for path in sorted((checkpoint / part).iterdir())
        ]


# Weights of selectors and tasks.


def save_gaze(model: AutoGaze, folder: Path) -> None:
    """Write a folder for `from_pretrained`, the image processor included."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    _save(model.state_dict(), folder)
    side = int(model.config.gaze_model_config.input_img_size)
    AutoGazeImageProcessor(size=side).save_pretrained(folder)


def load_gaze(model: AutoGaze, source: str | Path) -> None:
    """Load a selector's weights from such a folder, a hub id, or a state dict's file.

    "learned" is the package's own, as it is for `autogaze.load`.

    Raises:
        CheckpointError: there is none, or it is of another architecture.
    """
    path = SELECTOR if str(source) == LEARNED else find_checkpoint(source)
    load_strictly(model, read_state(path), path, hint="The model options describe another model")


def save_task(task: Task, folder: Path) -> None:
    """Write a task's own weights: by its `save_pretrained`, or else as a state dict.

    Those of frozen networks that it uses are not among them.
    """
    save_pretrained: Any = getattr(task, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    folder.mkdir(exist_ok=True)
    module = _with_weights(task)
    state = module.state_dict()
    frozen = {name for name, part in module.named_children() if _is_frozen(part)}
    _save({name: state[name] for name in state if name.partition(".")[0] not in frozen}, folder)


def load_task(task: Task, source: str | Path) -> None:
    """Load what `save_task` wrote, or what the task itself can read.

    Raises:
        CheckpointError: there is none, or it is of another architecture.
    """
    path = find_checkpoint(source)
    load_weights: Any = getattr(task, "load_weights", None)
    if load_weights is not None:
        load_weights(path)
        return
    hint = "The task options describe another task"
    module = _with_weights(task)
    own = module.state_dict()
    state = without_wrappers(read_state(path), own.__contains__)
    # Earlier versions wrote frozen networks too, or left out buffers beside the trained parts.
    trained = _trained_parts(module)
    names = [name for name in own if name in state or name.partition(".")[0] in trained]
    load_strictly(module, state, path, names=names, hint=hint)


def _with_weights(task: Task) -> nn.Module:
    """The task, or the user's own module that it calls, whose parameters have the user's names."""
    return task.module if isinstance(task, PublishedTask) else task


def _is_frozen(part: nn.Module) -> bool:
    """Whether there are parameters, and none is trained."""
    trained = [parameter.requires_grad for parameter in part.parameters()]
    return bool(trained) and not any(trained)


def _trained_parts(task: nn.Module) -> set[str]:
    """Names of the children and of the task's own parameters that are trained, wholly or in part."""
    parameters = task.named_parameters(remove_duplicate=False)
    return {name.partition(".")[0] for name, p in parameters if p.requires_grad}


def _save(state: Mapping[str, Tensor], folder: Path) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def check_folder(folder: Path) -> None:
    """Raise TrainingError now if nothing could be written to `folder` later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "metrics.jsonl")
    except (OSError, OutputError) as error:
        raise TrainingError(f"{folder}: experiments cannot be written there: {error}") from error
