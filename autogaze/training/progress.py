"""How training goes: one line that changes on a terminal, else a line now and then."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger("autogaze.training")


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
    """The progress line.

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
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        line = f"step {step}/{self.last}  {numbers}  left {_duration(left)}"
        if self.terminal:
            sys.stderr.write("\r" + line.ljust(self.width))
            sys.stderr.flush()
            self.width = len(line)
        else:
            log.info("%s", line)

    def end(self) -> None:
        """Leave the line as it stands."""
        if self.terminal and self.width:
            sys.stderr.write("\n")
            self.width = 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
