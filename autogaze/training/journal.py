"""What a training writes down: metrics as JSON lines, curves and pictures, and what a tracker gets."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from autogaze.errors import OutputError
from autogaze.files import replacing
from autogaze.training.curves import draw_curves
from autogaze.training.tracking import Tracking

log = logging.getLogger("autogaze.training")


class Journal:
    """Metrics, curves and pictures of one training. A full disk does not end it.

    Args:
        folder: `exps/<exp_name>`.
        tracking: the tracker.
        writes: whether this process writes files: the main one only.
        trains: whether there is a training. What only validates draws no curves and writes
            to `validation/`, beside what a training may have left in the folder.
    """

    def __init__(self, folder: Path, tracking: Tracking, *, writes: bool, trains: bool) -> None:
        self.folder = folder if trains else folder / "validation"
        self.tracking, self.writes, self.trains = tracking, writes, trains
        self.path = self.folder / "metrics.jsonl"

    def keep_options(self, options: Mapping[str, Any]) -> None:
        """Write down what this training was started with."""
        if not self.writes:
            return
        target = self.folder / "config.json"
        try:
            with replacing(target) as temporary:
                temporary.write_text(json.dumps(options, indent=2, default=str) + "\n")
        except (OSError, OutputError) as error:
            log.error("%s: cannot be written: %s", target, error)

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

    def validated(self, step: int) -> bool:
        """Whether a validation after so many steps is written down."""
        return any(
            entry["step"] == step and any(name.startswith("val/") for name in entry)
            for entry in read_metrics(self.path)
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note metrics after so many steps; JSON has no numbers that are not finite."""
        if self.writes:
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            for name in sorted(metrics.keys() - finite.keys()):
                log.warning("step %d: %s is %s and is not written down", step, name, metrics[name])
            line = json.dumps({"step": step, **finite}, allow_nan=False)
            try:
                self.folder.mkdir(exist_ok=True)
                with self.path.open("a") as file:
                    file.write(line + "\n")
            except OSError as error:
                log.error("%s: cannot be written: %s", self.path, error)
        self.tracking.write(step, metrics)

    def show(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep a picture as PNG below `pictures/`, and give it to the tracker."""
        from PIL import Image

        if self.writes:
            target = self.folder / "pictures" / f"step-{step:08d}-{name}.png"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(target)
            except OSError as error:
                log.error("%s: cannot be written: %s", target, error)
        self.tracking.show(step, name, picture)

    def draw(self) -> None:
        """Draw the curves of everything so far."""
        if self.writes and self.trains:
            target = self.folder / "curves.png"
            try:
                draw_curves(read_metrics(self.path), target)
            except (OSError, OutputError) as error:
                log.error("%s: cannot be written: %s", target, error)

    def close(self) -> None:
        """Draw the curves, and end the tracker's run."""
        self.draw()
        self.tracking.close()


class Means:
    """Means of metrics over the steps between two lines of the log."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.values[name].append(value)

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values.clear()
        return means


def read_metrics(path: Path) -> list[dict[str, float]]:
    """What `metrics.jsonl` holds, without lines that were cut off."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if _step_of(line) >= 0]


def _step_of(line: str) -> int:
    """Step of a line; -1 for one of which a killed process or a full disk left half."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
