"""Trackers: Weights & Biases, TensorBoard and Trackio, by way of Accelerate.

None is needed, and none needs a network. What goes wrong with one before training starts is
an error, later it is logged once and the tracker is given up: `metrics.jsonl` has it all.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from autogaze.errors import MissingExtraError, TrainingError
from autogaze.training.reading import choose

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")

TRACKERS = {"none": "", "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
"""What `trainer.tracker` can be, and the package it needs."""

PROJECT = "autogaze"
"""What trackers file the experiments under."""

WITHOUT_NETWORK = {"wandb": "; WANDB_MODE=offline needs neither a login nor a network"}


def check_tracker(name: str) -> None:
    """Raise before training starts where the tracker is unknown or not installed."""
    package = choose(TRACKERS, name, "trainer.tracker")
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "trackers", f"trainer.tracker={name}")


class Tracking:
    """The tracker of one experiment, or none.

    Args:
        folder: `exps/<exp_name>`; its name is the run's.
        accelerator: made with this tracker.
        name: one of `TRACKERS`.
        config: all options.

    Raises:
        TrainingError: the tracker does not start.
    """

    def __init__(
        self, folder: Path, accelerator: "Accelerator", name: str, config: Mapping[str, Any]
    ) -> None:
        self.accelerator, self.name = accelerator, name
        self.works = name != "none"
        if not self.works:
            return
        run = {"wandb": {"name": folder.name, "dir": str(folder)}, "trackio": {"name": folder.name}}
        try:
            accelerator.init_trackers(PROJECT, _flat(config), run)
        except Exception as error:  # every tracker raises kinds of its own
            hint = WITHOUT_NETWORK.get(name, "")
            raise TrainingError(f"trainer.tracker={name} does not start: {error}{hint}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics after so many steps."""
        self._try(partial(self.accelerator.log, dict(metrics), step=step))

    def show(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture, for trackers that show any."""
        for tracker in self.accelerator.trackers if self.works else ():
            if hasattr(tracker, "log_images"):
                # TensorBoard wants to be told that colours come last; others know nothing else.
                said = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                self._try(partial(tracker.log_images, {name: picture[None]}, step=step, **said))

    def close(self) -> None:
        """End the run."""
        self._try(self.accelerator.end_training)

    def _try(self, call: Callable[[], Any]) -> None:
        if not self.works:
            return
        try:
            call()
        except Exception as error:  # training is worth more than its tracker
            self.works = False
            log.error("trainer.tracker=%s failed and is given up: %s", self.name, error)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as `group.name`, which is what trackers can show."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool) else str(value)
    return flat
