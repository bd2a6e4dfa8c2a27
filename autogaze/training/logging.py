"""Logs of a training: metrics as JSON lines, curves, pictures, and a tracker."""

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from autogaze.errors import MissingExtraError, OutputError, TrainingError
from autogaze.rendering.plot_style import MUTED, SERIES, clean, save
from autogaze.training.config import choose, flattened
from autogaze.utils.files import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")


class MetricsLog:
    """Metrics, curves and pictures of one training. A full disk does not end it.

    Args:
        folder: `exps/<exp_name>`.
        tracker: gets the same.
        writes: whether this process writes files: the main one only.
        trains: whether there is a training. Validation alone draws no curves and writes to
            `validation/`, beside what a training may have left in the folder.
    """

    def __init__(self, folder: Path, tracker: "Tracker", *, writes: bool, trains: bool) -> None:
        self.folder = folder if trains else folder / "validation"
        self.tracker, self.writes, self.trains = tracker, writes, trains
        self.path = self.folder / "metrics.jsonl"

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step; JSON has no numbers that are not finite."""
        if self.writes:
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            for name in sorted(metrics.keys() - finite.keys()):
                log.warning("step %d: %s is %s and is not logged", step, name, metrics[name])
            line = json.dumps({"step": step, **finite}, allow_nan=False)
            with self._writing(self.path), self.path.open("a") as file:
                file.write(line + "\n")
        self.tracker.log(step, metrics)

    def save_picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Write a PNG below `pictures/`, and pass it to the tracker."""
        from PIL import Image

        if self.writes:
            target = self.folder / "pictures" / f"step-{step:08d}-{name}.png"
            with self._writing(target):
                Image.fromarray(picture).save(target)
        self.tracker.log_picture(step, name, picture)

    def save_options(self, options: Mapping[str, Any]) -> None:
        """Write `config.json`: the options that this training was started with."""
        target = self.folder / "config.json"
        if self.writes:
            with self._writing(target), replacing(target) as temporary:
                temporary.write_text(json.dumps(options, indent=2, default=str) + "\n")

    def rewind(self, step: int) -> None:
        """Remove entries after a step: a resumed training writes them again."""
        if not self.writes or not self.path.is_file():
            return
        # Half a line, where a killed process left one, is removed too.
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if 0 <= _step_of(line) <= step]
        if len(kept) < len(lines):
            with replacing(self.path) as temporary:
                temporary.write_text("".join(kept))

    def validated(self, step: int) -> bool:
        """Whether a validation after so many steps was logged."""
        return any(
            entry["step"] == step and any(name.startswith("val/") for name in entry)
            for entry in read_metrics(self.path)
        )

    def draw(self) -> None:
        """Draw the curves of everything so far."""
        target = self.folder / "curves.png"
        if self.writes and self.trains:
            with self._writing(target):
                draw_curves(read_metrics(self.path), target)

    def close(self) -> None:
        """Draw the curves, and end the tracker's run."""
        self.draw()
        self.tracker.close()

    @contextmanager
    def _writing(self, target: Path) -> Iterator[None]:
        """Make the folder; log what goes wrong."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield
        except (OSError, OutputError) as error:
            log.error("%s: cannot be written: %s", target, error)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The entries of `metrics.jsonl`, without lines that were cut off."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if _step_of(line) >= 0]


def _step_of(line: str) -> int:
    """Step of a line; -1 for one of which a killed process or a full disk left half."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def mean_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over steps of every metric; steps that lack one are left out of it."""
    values = {
        name: [metrics[name] for metrics in steps if name in metrics]
        for name in dict.fromkeys(name for metrics in steps for name in metrics)
    }
    return {name: sum(found) / len(found) for name, found in values.items()}


# The curves of a training: every metric over the steps, a loss beside its controls.

CONTROLS = {"shuffled": SERIES[2], "random": MUTED}
"""Colours of validation's controls, by the prefix of their losses' names."""


def draw_curves(entries: Sequence[Mapping[str, float]], target: Path) -> bool:
    """Draw the metrics as a PNG, where matplotlib is installed and there are any.

    Args:
        entries: lines of `metrics.jsonl`.

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
    for index, (title, names) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        clean(axes)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            control = _control(name)
            axes.plot(
                *zip(*points, strict=True),
                marker="." if len(points) < 20 else "",
                color=CONTROLS.get(control, SERIES[0]),
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
    save(figure, target)
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

TRACKERS = {"none": "", "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
"""What `trainer.tracker` can be, and the package it needs."""


def check_tracker(name: str) -> None:
    """Raise before training starts where the tracker is unknown or not installed."""
    package = choose(TRACKERS, name, "trainer.tracker")
    if package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, "trackers", f"trainer.tracker={name}")


PUBLISHED = {
    "lr": "train/lr",
    "temperature": "train/temperature",
    "prediction_loss": "train/task_loss_prediction_loss",
    "task_loss": "train/reconstruction_loss",
    "gazing_ratio": "train/avg_gazing_ratio_per_frame",
    "val/loss": "val/reconstruction_loss",
    "val/gazing_ratio": "val/avg_gazing_ratio_per_frame",
}
"""Metrics as the published package's trackers name them."""


def published_metrics(
    step: int, metrics: Mapping[str, float], algorithm: str, val_nsteps: int
) -> dict[str, float]:
    """Metrics of a step under the published package's names, for dashboards that expect these.

    Args:
        algorithm: its name; its loss is without the loss prediction there.
        val_nsteps: steps from one validation to the next; they are numbered there.
    """
    found = {PUBLISHED[name]: value for name, value in metrics.items() if name in PUBLISHED}
    if "loss" in metrics:
        found[f"train/{algorithm}_loss"] = metrics["loss"] - metrics.get("prediction_loss", 0.0)
    if "reward" in metrics:
        found.setdefault("train/reconstruction_loss", -metrics["reward"])
    if any(name.startswith("train/") for name in found):
        found["train/train_step"] = step - 1
    if any(name.startswith("val/") for name in found):
        found["val/val_step"] = -(-step // val_nsteps) if val_nsteps else 0
    return found


class Tracker:
    """The tracker of one experiment, or none. One that fails is dropped; training goes on.

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
        self.algorithm = str((config.get("algorithm") or {}).get("name", ""))
        self.val_nsteps = int((config.get("trainer") or {}).get("val_nsteps") or 0)
        self.active = name != "none"
        if not self.active:
            return
        run = {"wandb": {"name": folder.name, "dir": str(folder)}, "trackio": {"name": folder.name}}
        try:
            accelerator.init_trackers("autogaze", _plain_values(config), run)
        except Exception as error:  # every tracker raises kinds of its own
            hint = "; WANDB_MODE=offline needs no login and no network" if name == "wandb" else ""
            raise TrainingError(f"trainer.tracker={name} does not start: {error}{hint}") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, under our names and the published package's."""
        others = published_metrics(step, metrics, self.algorithm, self.val_nsteps)
        self._try(self.accelerator.log, {**others, **metrics}, step=step)

    def log_picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """A picture, for trackers that show any."""
        for tracker in self.accelerator.trackers if self.active else ():
            if hasattr(tracker, "log_images"):
                # TensorBoard must be given the order of axes; others know no other.
                order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                self._try(tracker.log_images, {name: picture[None]}, step=step, **order)

    def close(self) -> None:
        """End the run."""
        self._try(self.accelerator.end_training)

    def _try(self, call: Callable[..., Any], *args: Any, **options: Any) -> None:
        if not self.active:
            return
        try:
            call(*args, **options)
        except Exception as error:  # training is worth more than its tracker
            self.active = False
            log.error("trainer.tracker=%s failed and is dropped: %s", self.name, error)


def _plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their paths, with values that all trackers can show."""
    return {
        name: value if isinstance(value, int | float | bool) else str(value)
        for name, value in flattened(config)
    }
