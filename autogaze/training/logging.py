"""What a training writes down: metrics as JSON lines, curves and pictures, and what a tracker gets."""

import importlib.util
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from autogaze.errors import MissingExtraError, OutputError, TrainingError
from autogaze.training.config import choose
from autogaze.utils.files import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator


# The curves of a training: every metric over the steps, a loss beside its controls.

CONTROLS = {"shuffled": "tab:orange", "random": "tab:gray"}
"""Colours of the validation's controls: what the name of a control's loss begins with."""


def draw_curves(entries: Sequence[Mapping[str, float]], target: Path) -> bool:
    """Draw what was measured, where matplotlib is installed and there is anything.

    Args:
        entries: lines of `metrics.jsonl`.
        target: a PNG.

    Returns:
        Whether it was drawn.
    """
    drawn = panels(entries)
    if not drawn or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for place, (title, names) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            control = _control(name)
            axes.plot(
                *zip(*points, strict=True),
                marker="." if len(points) < 20 else "",
                color=CONTROLS.get(control, "tab:blue"),
                linestyle="--" if control else "-",  # both are seen where they coincide
                label=control or "own",
            )
        if len(names) > 1:
            values = [entry[name] for name in names for entry in entries if name in entry]
            if min(values) > 0 and max(values) > 2 * min(values):
                # Own and shuffled losses may lie close, random ones far above.
                axes.set_yscale("log")
            axes.legend(fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def panels(entries: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """Metrics that are drawn together, by their title: `val/loss` and those of its controls."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for entry in entries for name in entry):
        if name != "step":
            control = _control(name)
            title = name.replace(f"{control}_", "") if control else name
            found.setdefault(title, []).append(name)
    return found


def _control(name: str) -> str:
    """`shuffled` of `val/shuffled_loss@0.1`; nothing of other metrics."""
    group, _, rest = name.partition("/")
    first = rest.partition("_")[0]
    return first if group == "val" and first in CONTROLS else ""


# Trackers: Weights & Biases, TensorBoard and Trackio, by way of Accelerate.

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
