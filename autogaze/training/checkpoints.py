"""Checkpoints: written aside and renamed when complete, so that a good one always stands.

```
exps/<exp_name>/
  checkpoint_latest_gaze/           a folder for `from_pretrained`, the newest selector
  checkpoint_latest_task/           the newest judge, where one is trained
  checkpoints/step-00000500/        the newest two, each complete:
    gaze/  task/  optimizer.pt  state.json
```

Random states are not among them: everything random follows from the seed and the step.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from autogaze.errors import CheckpointError, OutputError, TrainingError
from autogaze.files import check_writable, replacing
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.weights import save_gaze, save_task

KEPT = 2
"""Checkpoints that are kept."""

CANNOT_SAVE = (OSError, RuntimeError, SafetensorError, OutputError)
"""What a full disk looks like, by who was writing: torch, safetensors, transformers."""


@dataclass(frozen=True)
class TrainingState:
    """What a training has to remember beside its weights.

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


class Checkpoints:
    """The checkpoints of one experiment.

    Args:
        folder: `exps/<exp_name>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps_folder = folder / "checkpoints"

    def clean(self) -> None:
        """Remove what an earlier process did not finish writing."""
        for path in self.steps_folder.glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".*.part*"):
            path.unlink(missing_ok=True)

    def all(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(path for path in self.steps_folder.glob("step-*") if path.is_dir())

    def save(
        self,
        state: TrainingState,
        model: AutoGaze,
        task: Task | None,
        optimizer: dict[str, Any],
    ) -> Path:
        """Write a checkpoint, make it the latest, and drop old ones.

        Args:
            task: where it is trained.
            optimizer: its state dict, and whatever else belongs to optimisation.

        Raises:
            OSError and others in `CANNOT_SAVE`: what was there before is untouched.
        """
        target = self.steps_folder / f"step-{state.step:08d}"
        with _folder_aside(target) as temporary:
            save_gaze(model, temporary / "gaze")
            if task is not None:
                save_task(task, temporary / "task")
            torch.save(optimizer, temporary / "optimizer.pt")
            (temporary / "state.json").write_text(json.dumps(asdict(state)))
        self._make_latest(target)
        for old in self.all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def _make_latest(self, checkpoint: Path) -> None:
        """File by file, each replaced whole; in a training only the weights ever change."""
        for part in ("gaze", "task"):
            if (checkpoint / part).is_dir():
                latest = self.folder / f"checkpoint_latest_{part}"
                latest.mkdir(exist_ok=True)
                for path in sorted((checkpoint / part).iterdir()):
                    _replace_by(path, latest / path.name)

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


def read_training_state(checkpoint: Path) -> TrainingState:
    """What a checkpoint remembers.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return TrainingState(**json.loads((checkpoint / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of training: {error}") from error


def read_optimizer(checkpoint: Path) -> dict[str, Any]:
    """The optimizer's state of a checkpoint; nothing in the file is ever executed."""
    path = checkpoint / "optimizer.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, none of them documented
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return state


def check_folder(folder: Path) -> None:
    """Raise TrainingError now if nothing can be written to `folder` later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "metrics.jsonl")
    except (OSError, OutputError) as error:
        raise TrainingError(f"{folder}: experiments cannot be written there: {error}") from error


@contextmanager
def _folder_aside(target: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `target` if the block succeeds, else removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.mkdir()
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        if target.exists():  # a run that was resumed from before it comes here again
            shutil.rmtree(target)
        os.rename(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Onto the disk, so that even a power cut finds either nothing or all of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_by(source: Path, target: Path) -> None:
    """Give `target` the content of `source`: a second name for it, or else a copy."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
