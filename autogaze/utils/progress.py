"""Progress bar on stderr, silent where that is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class ProgressBar:
    """A progress bar, as a context manager.

        with ProgressBar(len(clips), "clips", "labelling") as bar:
            for clip in clips:
                ...
                bar.advance()

    Long steps are named when they begin, by `bar.begin("greedy")` in place of `advance`. Functions
    that report progress take one of the two methods.

    Args:
        total: number of units; None if unknown.
        unit: name of what is counted.
        description: text before the bar.
        rate: also show how many units are done per second.
    """

    def __init__(
        self,
        total: int | None,
        unit: str = "steps",
        description: str = "",
        *,
        rate: bool = False,
    ) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            *([_Rate()] if rate else []),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=total)
        self._begun = 0

    def __enter__(self) -> "ProgressBar":
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._bar.disable:  # older versions of rich end it with an empty line all the same
            self._bar.stop()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more units as done."""
        self._bar.advance(self._task, amount)

    def begin(self, step: str) -> None:
        """Name the step that begins, and count those before it as done."""
        self._bar.update(self._task, completed=self._begun, description=step)
        self._begun += 1


class _Rate(ProgressColumn):
    """Units done per second, since the beginning."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.completed / elapsed:.2f}/s" if elapsed and task.completed else "")


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Without the bars that transformers draws on stderr while it loads weights, terminal or not."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def silent(*_: object) -> None:
    """No progress report: a replacement of `ProgressBar.advance` and `.begin`."""
