"""Report of `autogaze gaze` on each video, as tables and as JSON; tables of all commands."""

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autogaze.rendering.summary import Summary


@dataclass(frozen=True)
class Failure:
    """A video that could not be processed, and its error."""

    video: str
    error: str


class Report:
    """Printer of results, a context manager: each at once as JSON, or all in a table at the end.

        with Report(len(videos), as_json=False) as report:
            report.add(result)

    The table is printed also when the block is interrupted.
    """

    def __init__(self, num_videos: int, as_json: bool) -> None:
        self.num_videos = num_videos
        self.as_json = as_json
        self.results: list[Summary | Failure] = []

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *error: object) -> None:
        if not self.as_json:
            self._print_tables(results_console())

    def add(self, result: Summary | Failure) -> None:
        """Add the result of the next video."""
        self.results.append(result)
        if not self.as_json:
            return
        if isinstance(result, Summary):
            line = {"ok": True, **result.to_json()}
        else:
            line = {"ok": False, "video": result.video, "error": result.error}
        print_json(line)

    def _print_tables(self, console: Console) -> None:
        """A table of facts for one video, a table with one row per video for several."""
        done = [result for result in self.results if isinstance(result, Summary)]
        if self.num_videos == 1:
            for summary in done:
                console.print(facts_table(_facts(summary)))
        elif self.results:
            console.print(_rows(self.results))
            failed = len(self.results) - len(done)
            left = self.num_videos - len(self.results)
            console.print(
                f"{len(done)} of {self.num_videos} videos done"
                + (f", {failed} failed" if failed else "")
                + (f", {left} not done" if left else "")
            )


def _facts(summary: Summary) -> list[tuple[str, str]]:
    frames = f"{summary.frames} frame{'s' if summary.frames != 1 else ''}"
    seconds = f", {summary.seconds:.2f} s" if summary.seconds else ""
    dropped = f"{summary.corrupt} corrupt {'frame' if summary.corrupt == 1 else 'frames'}"
    columns, rows = summary.tiles
    kept = f"{sum(summary.kept):,} of {summary.total:,} patches ({100 * summary.ratio:.2f} %)"
    by_scale = zip(summary.scales, summary.kept, strict=True)
    pace = 1000 * summary.wall / summary.frames
    precision = "" if summary.dtype == "float32" else f" in {summary.dtype}"
    return [
        ("video", summary.video),
        ("size", f"{summary.width} x {summary.height}, {frames}{seconds}"),
        *([("dropped", dropped)] if summary.corrupt else []),
        ("tiles", f"{columns} x {rows} of {summary.side} px"),
        ("selector", summary.selector + precision),
        ("kept", kept),
        ("by scale", ", ".join(f"{scale} px: {count:,}" for scale, count in by_scale)),
        ("canvas loss", f"mean {summary.loss_mean:.4f}, largest {summary.loss_max:.4f}"),
        ("time", f"{summary.wall:.2f} s, {pace:.1f} ms per frame"),
        ("by stage", ", ".join(f"{k} {v:.2f}" for k, v in asdict(summary.times).items()) + " s"),
        *(("gaze file" if kind == "out" else kind, path) for kind, path in summary.files.items()),
    ]


def _rows(results: Sequence[Summary | Failure]) -> Table:
    table = figures_table("video", "size", "frames", "tiles", "kept", "loss", "largest", "seconds")
    for result in results:
        if isinstance(result, Failure):
            table.add_row(Text(result.video), Text("failed", style="red"))
            continue
        table.add_row(
            Text(result.video),
            f"{result.width}x{result.height}",
            str(result.frames),
            f"{result.tiles[0]}x{result.tiles[1]}",
            f"{100 * result.ratio:.2f} %",
            f"{result.loss_mean:.4f}",
            f"{result.loss_max:.4f}",
            f"{result.wall:.2f}",
        )
    return table


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line; NaN and infinity, which JSON does not have, are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    print(json.dumps(plain(values), allow_nan=False), flush=True)


class ResultsConsole(Console):
    """Console that raises when stdout is closed, where rich would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def results_console() -> Console:
    """Console on stdout: as wide as the terminal, or 160 columns where it is none."""
    console = ResultsConsole()
    return console if console.is_terminal else ResultsConsole(width=160)


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair per row."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def figures_table(subject: str, *figures: str) -> Table:
    """An empty table with a column of words and right-aligned columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(subject, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table
