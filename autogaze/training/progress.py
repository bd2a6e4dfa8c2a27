"""How training goes: one line that changes on a terminal, else a line now and then."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from autogaze.datasets.clip import LabelCoverage
from autogaze.datasets.mixture import MixedClips
from autogaze.training.auxiliary import GreedyLabelled
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import TrainingData
from autogaze.training.losses import Learner
from autogaze.training.resuming import Start

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")

WIDTH = 62
"""Columns of a line of the log: with the time before it, it fits into 80."""

URGENT = ("reward", "task_loss", "clips_per_second", "loss", "unreadable")
"""Metrics that get room on the progress line before all others."""

FIRST = ("loss", "task_loss", "reward", "clips_per_second", "unreadable")
"""Metrics that stand first on it."""

SHORT = {"clips_per_second": "clips/s"}
"""What the progress line calls them."""


class Stopwatch:
    """Where the time goes, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.since = time.perf_counter()
        self.step = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block out of every count."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def read(self, step: int) -> tuple[float, int, dict[str, float]]:
        """Seconds and steps since the last reading, and each stage's share; starts anew."""
        now = time.perf_counter()
        total = max(now - self.since, 1e-9)
        shares = {name: seconds / total for name, seconds in self.seconds.items()}
        steps = step - self.step
        self.seconds, self.since, self.step = {}, now, step
        return total, steps, shares


class Progress:
    """The progress line, as wide as the terminal at most; `metrics.jsonl` has everything.

    Args:
        first, last: steps that this run does.
        shown: by the main process only.
    """

    def __init__(self, first: int, last: int, *, shown: bool) -> None:
        self.first, self.last, self.shown = first, last, shown
        self.terminal = shown and sys.stderr.isatty()
        self.start = time.perf_counter()
        self.width = 0

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """After so many steps."""
        if not self.shown:
            return
        passed = time.perf_counter() - self.start
        left = passed / max(1, step - self.first) * (self.last - step)
        width = _columns() - 1 if self.terminal else WIDTH  # a full last column would wrap
        line = _fit(f"step {step}/{self.last}", metrics, f"left {_duration(left)}", width)
        if self.terminal:
            sys.stderr.write("\r" + line.ljust(min(self.width, width)))
            sys.stderr.flush()
            self.width = len(line)
        else:
            log.info("%s", line)

    def end(self) -> None:
        """Leave the line as it stands."""
        if self.terminal and self.width:
            sys.stderr.write("\n")
            self.width = 0


def wrapped(parts: Iterable[str], width: int = WIDTH) -> list[str]:
    """Parts one after the other, as many as fit into each line."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _fit(start: str, metrics: Mapping[str, float], end: str, width: int) -> str:
    """The line with those metrics that find room in it."""
    texts = {name: f"{SHORT.get(name, name)} {value:.4g}" for name, value in metrics.items()}
    shown, room = [], width - len(start) - len(end) - 2
    for name in _ordered(texts, URGENT):
        if len(texts[name]) + 2 > room:
            break  # a shorter one instead would make the columns change from line to line
        shown.append(name)
        room -= len(texts[name]) + 2
    return "  ".join([start, *(texts[name] for name in _ordered(shown, FIRST)), end])[:width]


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Some names before all others, which stay in their order."""
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def _columns() -> int:
    """Of the terminal; 80 where it does not tell."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# What is said before the first step: what is trained, on what, where, and from where on.


FEW = 0.5
"""Share of the clips found below which a label file is probably another dataset's."""


@dataclass(frozen=True)
class LabelCount:
    """The clips of a dataset, by where their labels come from.

    Attributes:
        files: clips with labels of a file.
        greedy: clips that are labelled while they are read.
        bare: clips without labels.
        coverages: of the label files.
    """

    files: int = 0
    greedy: int = 0
    bare: int = 0
    coverages: tuple[LabelCoverage, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> "LabelCount":
        """Count a dataset's clips; of a mixture, those of all its parts."""
        if isinstance(dataset, MixedClips):
            parts = [cls.of(part) for part in dataset.datasets]
            return cls(
                sum(part.files for part in parts),
                sum(part.greedy for part in parts),
                sum(part.bare for part in parts),
                tuple(chain.from_iterable(part.coverages for part in parts)),
            )
        number = len(dataset)  # type: ignore[arg-type]
        if isinstance(dataset, GreedyLabelled):
            return cls(greedy=number)
        coverage: LabelCoverage | None = getattr(dataset, "coverage", None)
        return cls(bare=number) if coverage is None else cls(number, coverages=(coverage,))

    @property
    def total(self) -> int:
        return self.files + self.greedy + self.bare

    def describe(self) -> str:
        """`86 clips with labels; 14 of 100 found have none and are left out`."""
        kinds = (
            (self.files, "with labels"),
            (self.greedy, "labelled as they are read"),
            (self.bare, "without labels"),
        )
        parts = [f"{number} {kind}" for number, kind in kinds if number]
        one = len(parts) == 1
        text = parts[0].replace(" ", " clips ", 1) if one else f"{self.total} clips: "
        text += "" if one else ", ".join(parts)
        found = sum(coverage.found for coverage in self.coverages)
        left_out = found - sum(coverage.labelled for coverage in self.coverages)
        return text + (f"; {left_out} of {found} found have none: left out" if left_out else "")


def warn_of_few_labels(coverages: Sequence[LabelCoverage]) -> None:
    """Warn of label files that name less than half of the clips found."""
    for one in coverages:
        if one.labelled < FEW * one.found:
            log.warning(
                "%s labels only %d of the %d clips found: the others, such as %s, are left out. "
                "Is it the label file of this dataset?",
                one.file,
                one.labelled,
                one.found,
                one.missing,
            )


def announce(
    learner: Learner,
    accelerator: "Accelerator",
    options: TrainerOptions,
    data: TrainingData,
    start: Start,
    num_steps: int,
) -> None:
    """Log what is going to happen."""
    trains = learner.train_gaze or learner.train_task
    validation = None if data.val is None else LabelCount.of(data.val)
    rows = [("start", line) for line in _beginning(start, options)]
    coverages: list[LabelCoverage] = []
    if trains:
        count = LabelCount.of(data.train)
        coverages += count.coverages
        epochs = num_steps * options.batch_size / len(data.train)  # type: ignore[arg-type]
        steps = f"{start.state.step} to {num_steps}, {options.batch_size} clips each, "
        if start.state.step >= num_steps:
            steps = f"none left of {num_steps} (trainer.max_steps, n_epochs), "
        rows += [("train", count.describe()), ("steps", f"{steps}{epochs:.3g} epochs")]
    rows.append(("val", _validation(validation, options)))
    if trains:
        rows.append(("trained", _parameters(learner)))
    folder = Path(options.exp_folder) / options.exp_name
    rows += [("device", _device(accelerator)), ("results", str(folder))]
    for name, text in rows:
        log.info("%-8s %s", name, text)
    if options.resume is True and start.checkpoint is None:
        log.warning("trainer.resume=True, but %s has no checkpoints to go on from", folder)
    warn_of_few_labels(coverages + list(validation.coverages if validation else ()))


def _beginning(start: Start, options: TrainerOptions) -> list[str]:
    if start.checkpoint is None:
        named = [name for name in (options.gaze_weights, options.task_weights) if name is not None]
        first = ["at step 0"] if named else ["at step 0, weights drawn at random"]
        return [*first, *(f"weights of {name}" for name in named)]
    if start.continues:
        return [f"after step {start.state.step}", f"from {start.checkpoint}"]
    return [
        "at step 0",
        f"weights of {start.checkpoint}",
        f"not its optimizer, steps, order of clips: of {start.algorithm}",
    ]


def _validation(count: LabelCount | None, options: TrainerOptions) -> str:
    if count is None:
        return "none" if options.val_nsteps else "none (trainer.val_nsteps=0)"
    return f"{min(options.val_clips, count.total)} of {count.describe()}"


def _parameters(learner: Learner) -> str:
    counts = {
        "selector": (learner.train_gaze, learner.model),
        "judge": (learner.train_task, learner.task),
    }
    return ", ".join(
        f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,} weights of the {name}"
        for name, (learns, module) in counts.items()
        if learns
    )


def _device(accelerator: "Accelerator") -> str:
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    processes = accelerator.num_processes
    return f"{accelerator.device}, {precision}" + (
        f", {processes} processes" if processes > 1 else ""
    )
