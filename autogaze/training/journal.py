"""What a training writes down: metrics as JSON lines, always, and a tracker, where wanted."""

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from autogaze.errors import MissingExtraError
from autogaze.files import replacing
from autogaze.training.reading import choose

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")

TRACKERS = {"none": "", "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
"""What `trainer.tracker` can be, and the package it needs."""


def check_tracker(name: str) -> None:
    """Raise before training starts where the tracker is unknown or not installed."""
    package = choose(TRACKERS, name, "trainer.tracker")
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "trackers", f"trainer.tracker={name}")


class Journal:
    """Metrics and pictures of one training; written by the main process only.

    Args:
        folder: `exps/<exp_name>`.
        accelerator: holds the tracker.
        tracker: one of `TRACKERS`.
        config: all options, for the tracker.
    """

    def __init__(
        self, folder: Path, accelerator: "Accelerator", tracker: str, config: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        self.accelerator = accelerator
        self.writes = accelerator.is_main_process
        self.tracks = tracker != "none"
        if self.tracks:
            name = folder.name
            accelerator.init_trackers("autogaze", _flat(config), {"wandb": {"name": name}})

    def rewind(self, step: int) -> None:
        """Forget what was written after a step: a resumed training writes it again."""
        if not self.writes or not self.path.is_file():
            return
        # Half a line, where a killed process left one, is forgotten too.
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if 0 <= _step_of(line) <= step]
        if len(kept) < len(lines):
            with replacing(self.path) as temporary:
                temporary.write_text("".join(kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note metrics after so many steps. A full disk does not stop training."""
        if self.writes:
            line = json.dumps({"step": step, **metrics})
            try:
                with self.path.open("a") as file:
                    file.write(line + "\n")
            except OSError as error:
                log.error("%s: cannot be written: %s", self.path, error)
        if self.tracks:
            self.accelerator.log(dict(metrics), step=step)

    def show(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep a picture as PNG below `pictures/`, and give it to the tracker."""
        from PIL import Image

        if self.writes:
            target = self.folder / "pictures" / f"step-{step:08d}-{name}.png"
            try:
                target.parent.mkdir(exist_ok=True)
                Image.fromarray(picture).save(target)
            except OSError as error:
                log.error("%s: cannot be written: %s", target, error)
        for tracker in self.accelerator.trackers if self.tracks else ():
            if hasattr(tracker, "log_images"):
                tracker.log_images({name: [picture]}, step=step)

    def close(self) -> None:
        """Draw the curves, and end the tracker's run."""
        if self.writes:
            draw_curves(self.path, self.folder / "curves.png")
        if self.tracks:
            self.accelerator.end_training()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """What `metrics.jsonl` holds, without a last line that was cut off."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if _step_of(line) >= 0]


def draw_curves(metrics: Path, target: Path) -> bool:
    """Every metric over the steps, where matplotlib is installed."""
    entries = read_metrics(metrics)
    if not entries or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(key for e in entries for key in e) if name != "step"]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 20 else "")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _step_of(line: str) -> int:
    """Step of a line; -1 for the last one where a killed process left half of it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as `group.name`, which is what trackers can show."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool) else str(value)
    return flat
