"""How training goes: one line that changes on a terminal, else a line now and then."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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
