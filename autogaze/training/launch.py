"""Starting Accelerate: which devices, which precision, how many processes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autogaze.errors import MissingExtraError, TrainingError
from autogaze.training.config import TrainerOptions
from autogaze.training.logging import check_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(options: TrainerOptions, folder: Path) -> "Accelerator":
    """One process of as many as `torchrun` or `accelerate launch` started.

    Raises:
        MissingExtraError: Accelerate, or the tracker that was asked for, is not installed.
        TrainingError: several processes were started, and they cannot work together.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    check_tracker(options.tracker)
    accelerator = Accelerator(
        # Only when told so does Accelerate join processes that have no accelerator.
        cpu=options.device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision=options.mixed_precision,
        log_with=None if options.tracker == "none" else options.tracker,
        project_dir=str(folder),
    )
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if started != accelerator.num_processes:
        raise TrainingError(
            f"{started} processes were started (WORLD_SIZE), and Accelerate joined "
            f"{accelerator.num_processes}: each would train by itself in one folder; start one "
            "process, or set trainer.device=cpu"
        )
    return accelerator
