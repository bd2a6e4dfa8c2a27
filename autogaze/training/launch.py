"""Starting Accelerate: which devices, which precision, how many processes."""

from pathlib import Path
from typing import TYPE_CHECKING

from autogaze.errors import MissingExtraError
from autogaze.training.options import TrainerOptions
from autogaze.training.tracking import check_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(options: TrainerOptions, folder: Path) -> "Accelerator":
    """One process of as many as `torchrun` or `accelerate launch` started.

    Raises:
        MissingExtraError: Accelerate, or the tracker that was asked for, is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training") from error
    check_tracker(options.tracker)
    return Accelerator(
        cpu=options.device == "cpu",
        mixed_precision=options.mixed_precision,
        log_with=None if options.tracker == "none" else options.tracker,
        project_dir=str(folder),
    )
