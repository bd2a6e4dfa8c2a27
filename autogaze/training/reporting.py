"""Progress of a training: the start-up summary, a progress line, and where the time goes."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.data import Dataset

from autogaze.datasets.clip import LabelCoverage
from autogaze.datasets.mixture import MixedClips
from autogaze.labelling.label import GreedyLabelled
from autogaze.training.config import TrainerOptions
from autogaze.training.loader import TrainingData
from autogaze.training.resuming import Start

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("autogaze.training")

WIDTH = 62
"""Columns of a line of the log: with the time before it, it fits into 80."""

URGENT = ("reward", "task_loss", "clips_per_second", "loss", "unreadable")
"""Metrics that get room on the progress line before all others."""

FIRST = ("loss", "task_loss", "reward", "clips_per_second", "unreadable")
"""Metrics that come first on it."""


class Stopwatch:
    """Time by stage."""

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
    """Progress line: updated in place on a terminal, otherwise a log line at intervals.

    Unlike a `ProgressBar` it shows metrics, and is there without a terminal too.

    Args:
        first, last: steps of this run.
        active: in the main process only.
    """

    def __init__(self, first: int, last: int, *, active: bool) -> None:
        self.first, self.last, self.active = first, last, active
        self.terminal = active and sys.stderr.isatty()
        self.start = time.perf_counter()
        self.width = 0

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step, as far as there is room, and the time left."""
        if not self.active:
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
        """Leave the line as it is, and begin a new one."""
        if self.terminal and self.width:
            sys.stderr.write("\n")
            self.width = 0


def _fit(start: str, metrics: Mapping[str, float], end: str, width: int) -> str:
    """The line with those metrics that find room in it."""
    short = {"clips_per_second": "clips/s"}
    texts = {name: f"{short.get(name, name)} {value:.4g}" for name, value in metrics.items()}
    chosen, room = [], width - len(start) - len(end) - 2
    for name in _ordered(texts, URGENT):
        if len(texts[name]) + 2 > room:
            break  # a shorter one instead would make the columns change from line to line
        chosen.append(name)
        room -= len(texts[name]) + 2
    return "  ".join([start, *(texts[name] for name in _ordered(chosen, FIRST)), end])[:width]


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Some names before all others, which stay in their order."""
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _columns() -> int:
    """Of the terminal; 80 where unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def wrapped(parts: Iterable[str]) -> list[str]:
    """Parts one after the other, as many as fit into each line of the log."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= WIDTH:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


# The start-up summary: what is trained, on what, where, and from where on.

MOST_LABELLED = 0.5
"""Share of the clips found below which a label file is probably another dataset's."""


def log_summary(
    trained: Mapping[str, nn.Module],
    accelerator: "Accelerator",
    options: TrainerOptions,
    data: TrainingData,
    start: Start,
    num_steps: int,
) -> None:
    """Log the start-up summary of a training of some modules, by their names."""
    rows = [("start", line) for line in _origin(start, options)]
    coverages: list[LabelCoverage] = []
    if trained:
        counts, coverages = count_labels(data.train)
        epochs = num_steps * options.batch_size / len(data.train)  # type: ignore[arg-type]
        steps = f"{start.state.step} to {num_steps}, {options.batch_size} clips each, "
        if start.state.step >= num_steps:
            steps = f"none left of {num_steps} (trainer.max_steps, n_epochs), "
        rows.append(("train", _clips_text(counts, coverages)))
        rows.append(("steps", f"{steps}{epochs:.3g} epochs"))
    if data.val is None:
        rows.append(("val", "none" if options.val_nsteps else "none (trainer.val_nsteps=0)"))
    else:
        counts, found = count_labels(data.val)
        number = min(options.val_clips, sum(counts.values()))
        rows.append(("val", f"{number} of {_clips_text(counts, found)}"))
        coverages += found
    if trained:
        sizes = [
            f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,} weights of the {name}"
            for name, module in trained.items()
        ]
        rows.append(("trained", ", ".join(sizes)))
    precision = accelerator.mixed_precision.replace("no", "float32")
    processes = accelerator.num_processes
    device = f"{accelerator.device}, {precision}" + f", {processes} processes" * (processes > 1)
    rows += [("device", device), ("results", str(options.folder))]
    for name, text in rows:
        log.info("%-8s %s", name, text)
    if options.resume is True and start.checkpoint is None:
        log.warning("trainer.resume=True, but %s has no checkpoints to go on from", options.folder)
    for coverage in coverages:
        if coverage.labelled < MOST_LABELLED * coverage.found:
            log.warning(
                "%s labels only %d of the %d clips found: the others, such as %s, are left out. "
                "Is it the label file of this dataset?",
                coverage.file,
                coverage.labelled,
                coverage.found,
                coverage.missing,
            )


def _origin(start: Start, options: TrainerOptions) -> list[str]:
    """Where the weights and the steps start from."""
    if start.checkpoint is None:
        named = [name for name in (options.gaze_weights, options.task_weights) if name is not None]
        first = "at step 0" if named else "at step 0, random weights"
        return [first, *(f"weights of {name}" for name in named)]
    if start.continues:
        return [f"after step {start.state.step}", f"from {start.checkpoint}"]
    other = f"not its optimizer, steps, order of clips: of {start.algorithm}"
    return ["at step 0", f"weights of {start.checkpoint}", other]


def count_labels(dataset: Dataset) -> tuple[dict[str, int], list[LabelCoverage]]:
    """Numbers of clips by where their labels come from, and the coverage of all label files.

    Of a mixture, those of all its parts together.
    """
    counts = {"with labels": 0, "labelled while read": 0, "without labels": 0}
    coverages = []
    for part in dataset.datasets if isinstance(dataset, MixedClips) else [dataset]:
        coverage: LabelCoverage | None = getattr(part, "coverage", None)
        if coverage is not None:
            coverages.append(coverage)
            kind = "with labels"
        else:
            kind = "labelled while read" if isinstance(part, GreedyLabelled) else "without labels"
        counts[kind] += len(part)  # type: ignore[arg-type]
    return counts, coverages


def _clips_text(counts: Mapping[str, int], coverages: Sequence[LabelCoverage]) -> str:
    """`86 clips: 86 with labels; 14 of 100 found have none: left out`."""
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    found = sum(coverage.found for coverage in coverages)
    left_out = found - sum(coverage.labelled for coverage in coverages)
    rest = f"; {left_out} of {found} found have none: left out" if left_out else ""
    return f"{sum(counts.values())} clips: {parts}{rest}"
