"""The progress bar: on stderr where that is a terminal, silent elsewhere."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """How far a job is.

        with ProgressBar(len(clips), "clips", "labelling") as bar:
            for clip in clips:
                ...
                bar.advance()

    Long steps of different kinds are named when they begin, with `bar.begin("greedy")` in place
    of `advance`. Functions that report progress take one of the two methods.

    Args:
        total: how much there is to do; None if unknown.
        unit: of what.
        description: what is going on.
    """

    def __init__(self, total: int | None, unit: str = "steps", description: str = "") -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=total)
        self._begun = 0

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""
        self._bar.advance(self._task, amount)

    def begin(self, step: str) -> None:
        """A step begins, and those begun before it are done."""
        self._bar.update(self._task, completed=self._begun, description=step)
        self._begun += 1


def silent(*_: object) -> None:
    """Stands in for `ProgressBar.advance` and `.begin` where no progress is reported."""
