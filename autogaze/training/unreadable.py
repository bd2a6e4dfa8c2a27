"""Clips that could not be read: named, counted, and too many of them end training."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from autogaze.datasets.clip import UnreadableClip
from autogaze.errors import TrainingError

log = logging.getLogger("autogaze.training")

ENOUGH = 200
"""Clips after which a share of them means something."""


def report(clips: Sequence[UnreadableClip], folder: Path) -> None:
    """Name them in the log and in `unreadable.jsonl`."""
    for clip in clips:
        log.warning("skipped %s: %s", clip.name, clip.cause)
    if clips:
        try:
            with (folder / "unreadable.jsonl").open("a") as file:
                file.writelines(json.dumps(asdict(clip)) + "\n" for clip in clips)
        except OSError as error:
            log.error("%s: cannot be written: %s", folder / "unreadable.jsonl", error)


def check_share(unreadable: int, seen: int, planned: int, most: float) -> None:
    """Raise TrainingError where too many clips were unreadable.

    Judged once `ENOUGH` clips were seen; before, only where even these could not all be
    forgiven. A training of fewer clips is judged as a whole.
    """
    if unreadable > most * max(seen, min(ENOUGH, planned)):
        share = math.ceil(100 * unreadable / seen) / 100
        forgiven = f", or set dataset.max_unreadable={share:g} to do without them"
        raise TrainingError(
            f"{unreadable} of {seen} clips could not be read, more than "
            f"dataset.max_unreadable={most:g} allows; unreadable.jsonl, in the folder of the "
            "experiment, names them and says why: repair these files or take them away"
            + (forgiven if unreadable < seen else "")
        )
