"""What `autogaze gaze` prints when it is done, for people and for machines."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autogaze.cli.summary import Summary


@dataclass(frozen=True)
class Failure:
    """A video that could not be gazed at, and why."""

    video: str
    error: str


class ResultsConsole(Console):
    """Leaves it to the command to end when nobody reads on; rich would end it with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def results_console() -> Console:
    """For stdout: as wide as the terminal, and wide enough for paths where it goes elsewhere."""
    console = ResultsConsole()
    return console if console.is_terminal else ResultsConsole(width=160)


class Report:
    """Tells how the videos went: each at once as JSON, or all in a table at the end.

        with Report(len(videos), as_json=False) as report:
            report.add(result)

    The table of what is done is printed also when the block is interrupted.
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
        """How the next video went."""
        self.results.append(result)
        if not self.as_json:
            return
        if isinstance(result, Summary):
            line = {"ok": True, **result.to_json()}
        else:
            line = {"ok": False, "video": result.video, "error": result.error}
        print(json.dumps(line), flush=True)

    def _print_tables(self, console: Console) -> None:
        """A table of facts for one video, a table with a row each for several."""
        if self.num_videos == 1:
            for result in self.results:
                if isinstance(result, Summary):
                    console.print(_facts(result))
            return
        if not self.results:
            return
        console.print(_rows(self.results))
        failed = sum(isinstance(result, Failure) for result in self.results)
        done = len(self.results) - failed
        left = self.num_videos - len(self.results)
        console.print(
            f"{done} of {self.num_videos} videos done"
            + (f", {failed} failed" if failed else "")
            + (f", {left} not done" if left else "")
        )


def _facts(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    columns, rows = summary.tiles
    times = summary.times

    def fact(name: str, value: str) -> None:
        table.add_row(name, Text(value))

    fact("video", summary.video)
    seconds = f", {summary.seconds:.2f} s" if summary.seconds else ""
    frames = f"{summary.frames} frame{'s' if summary.frames != 1 else ''}"
    fact("size", f"{summary.width} x {summary.height}, {frames}{seconds}")
    if summary.corrupt:
        frames = "frame was" if summary.corrupt == 1 else "frames were"
        fact("lost", f"{summary.corrupt} corrupt {frames} skipped")
    fact("tiles", f"{columns} x {rows} of {summary.side} px")
    fact("selector", summary.selector)
    fact("kept", f"{summary.num_kept:,} of {summary.total:,} patches ({100 * summary.ratio:.2f} %)")
    fact(
        "by scale",
        ", ".join(
            f"{scale} px: {kept:,}"
            for scale, kept in zip(summary.scales, summary.kept, strict=True)
        ),
    )
    fact("canvas loss", f"mean {summary.loss_mean:.4f}, largest {summary.loss_max:.4f}")
    stages = ("decode", "tile", "select", "reconstruct", "render")
    fact(
        "time",
        f"{summary.wall:.2f} s, {1000 * summary.wall / summary.frames:.1f} ms a frame",
    )
    fact("by stage", ", ".join(f"{stage} {getattr(times, stage):.2f}" for stage in stages) + " s")
    for kind, path in summary.files.items():
        fact("gaze file" if kind == "out" else kind, path)
    return table


def _rows(results: Sequence[Summary | Failure]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("video", overflow="fold")
    for name in ("size", "frames", "tiles", "kept", "loss", "largest", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
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
