"""What `autogaze bench encode` found out."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autogaze.evaluation.timing import ByStage, Stage, Timing


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Cost:
    """What one way of seeing a piece of video costs.

    Attributes:
        selector: who chose; "dense" saw everything.
        ratio: the cap asked for, as a share of all patches of all scales; None for dense,
            and where trained weights stopped by themselves.
        tokens: patches encoded, class tokens aside.
        seconds: of every stage.
        seeing: seconds of selecting, embedding and encoding together.
        whole: seconds of all stages.
        factor: how many times faster than dense this is, selecting included, decoding and
            preprocessing left out (they are the same).
        whole_factor: the same with decoding and preprocessing.
        encoding: embedding and encoding as a share of dense encoding's time.
        flops: counted, of every stage (0 for those that are not counted).
        peak: bytes held at the most during every stage above the program and its weights;
            None where it cannot be measured.
    """

    selector: str
    ratio: float | None
    tokens: int
    seconds: ByStage[Timing]
    seeing: Timing
    whole: Timing
    factor: Spread
    whole_factor: float
    encoding: float
    flops: ByStage[int]
    peak: ByStage[int | None]

    @property
    def verdict(self) -> str:
        """Whether this beats dense encoding: in every round, in none, or in some."""
        if self.factor.least > 1:
            return "faster"
        return "slower" if self.factor.largest < 1 else "undecided"

    @property
    def total_flops(self) -> int:
        return sum(self.flops)


@dataclass(frozen=True)
class CellReport:
    """One frame rate and resolution.

    Attributes:
        fps: frames a second asked for; `fps_seen` what the video has of it.
        frames: frames seen, fewer than asked for where the video is too short.
        resolution: pixels a side asked for; `pixels` what the tiles make of it.
        tiles: squares of the encoder's side that a frame is cut into.
    """

    fps: float
    fps_seen: float
    frames: int
    resolution: int
    pixels: int
    tiles: int
    dense: Cost
    gazed: tuple[Cost, ...]

    def share(self, cost: Cost) -> float:
        """Tokens as a share of dense encoding's."""
        return cost.tokens / self.dense.tokens

    def over_share(self, cost: Cost) -> float:
        """How much longer encoding takes than that share of dense encoding's time."""
        return cost.encoding / self.share(cost)

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                **asdict(cost),
                "share": self.share(cost),
                "over_share": self.over_share(cost),
                "verdict": cost.verdict if cost is not self.dense else None,
            }
            for cost in (self.dense, *self.gazed)
        ]
        return {**asdict(self), "dense": rows[0], "gazed": rows[1:]}


@dataclass(frozen=True)
class EncoderReport:
    """All cells of one encoder.

    Attributes:
        random_weights: times are those of real weights, features are not.
        scales: at which it is gazed.
        dense_batch: frames that dense encoding got at once.
        dense_batch_searched: whether that was the fastest of a few, or the user's wish.
    """

    name: str
    random_weights: bool
    scales: str
    dense_batch: int
    dense_batch_searched: bool
    cells: tuple[CellReport, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cells": [cell.to_json() for cell in self.cells]}


@dataclass(frozen=True)
class EncodeReport:
    """All that one run measured, and how.

    Attributes:
        place: device and precision of the models.
        video_size: width and height in pixels.
        budget: where the selectors' ratios come from.
        memory: how peaks were measured.
        repeats: rounds.
    """

    hardware: str
    place: str
    video: str
    video_size: tuple[int, int]
    video_fps: float | None
    budget: str
    memory: str
    attn_type: str
    repeats: int
    encoders: tuple[EncoderReport, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        notes = [f"Shares of patches: {self.budget}."]
        cells = [cell for encoder in self.encoders for cell in encoder.cells]
        if any(cell.fps > cell.fps_seen for cell in cells):
            notes.append(
                f"The video has {self.video_fps:g} frames a second: higher rates see those, "
                "with the share of patches of the rate asked for."
            )
        if len({cell.frames for cell in cells}) > 1:
            notes.append("The video is too short for all frames asked for at the lower rates.")
        if any(cell.pixels != cell.resolution for cell in cells):
            notes.append("Tiles make the next larger whole number of encoder sides.")
        if any(encoder.random_weights for encoder in self.encoders):
            notes.append("Encoders have random weights; what they cost does not depend on them.")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        encoders = [encoder.to_json() for encoder in self.encoders]
        return {**asdict(self), "notes": list(self.notes), "encoders": encoders}


# The tables that `autogaze bench encode` prints.

COMPACT: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
"""Fifteen columns in 160 characters."""


def print_report(report: EncodeReport, console: Console) -> None:
    """Times, then arithmetic and memory, then which selectors break even."""
    for encoder in report.encoders:
        console.print(_times(report, encoder))
        console.print(_resources(report, encoder))
        for line in verdicts(encoder):
            console.print(line, markup=False)
        console.print()
    for note in report.notes:
        console.print(note, style="dim")


def heading(report: EncodeReport, encoder: EncoderReport) -> str:
    """What was measured on what."""
    how = "the fastest of a few" if encoder.dense_batch_searched else "as asked for"
    weights = ", random weights" if encoder.random_weights else ""
    width, height = report.video_size
    return (
        f"{encoder.name}{weights}, gazed at {encoder.scales}, {report.attn_type}\n"
        f"{report.video}, {width} x {height}; {report.hardware}, {report.place}\n"
        f"medians of {report.repeats} rounds; share: of dense encoding's tokens; dense encoding gets {encoder.dense_batch} frames "
        f"at once ({how})"
    )


def where(cell: CellReport) -> str:
    """One cell in words."""
    fps = f"{cell.fps:g} fps"
    if cell.fps_seen < cell.fps:
        fps += f" (has {cell.fps_seen:g})"
    pixels = f"{cell.resolution} px"
    if cell.pixels != cell.resolution:
        pixels += f" (shown at {cell.pixels})"
    tiles = f", {cell.tiles} tiles" if cell.tiles > 1 else ""
    return f"{fps}, {pixels}, {cell.frames} frames{tiles}"


def verdicts(encoder: EncoderReport) -> list[str]:
    """For every cell, which selectors make seeing faster than dense encoding."""
    lines = []
    for cell in encoder.cells:
        parts = [f"{cost.selector} {_verdict(cost)}" for cost in cell.gazed]
        lines.append(f"{where(cell)}: " + "; ".join(parts))
    return ["Selecting + embedding + encoding against dense encoding:", *lines]


def _verdict(cost: Cost) -> str:
    if cost.verdict == "undecided":
        return f"undecided ({cost.factor.least:.2f} to {cost.factor.largest:.2f} x as fast)"
    if cost.verdict == "faster":
        return f"{cost.factor.median:.2f} x faster"
    return f"{1 / cost.factor.median:.2f} x SLOWER"


def _times(report: EncodeReport, encoder: EncoderReport) -> Table:
    table = Table(
        title="Time, ms. " + escape(heading(report, encoder)), title_justify="left", **COMPACT
    )
    _cell_columns(table)
    for name in ("patches", "tokens", "share", *(stage.value for stage in Stage)):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("select to\nencode", "x as fast as\ndense (range)", "encode / share\nof dense"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in encoder.cells:
        table.add_section()
        for cost in (cell.dense, *cell.gazed):
            table.add_row(*_where(cell, cost), *_time_row(cell, cost))
    return table


def _cell_columns(table: Table) -> None:
    for name in ("fps", "px", "frames"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("selector", overflow="fold", min_width=10, max_width=24)


def _where(cell: CellReport, cost: Cost) -> tuple[str, ...]:
    """What is the same for all rows of a cell, in its first one only."""
    if cost is not cell.dense:
        return "", "", "", escape(cost.selector)
    fps = f"{cell.fps:g}" + (f"\n(has {cell.fps_seen:g})" if cell.fps_seen < cell.fps else "")
    pixels = f"{cell.resolution}"
    if cell.pixels != cell.resolution:
        pixels += f"\n(as {cell.pixels})"
    return fps, pixels, str(cell.frames), escape(cost.selector)


def _time_row(cell: CellReport, cost: Cost) -> tuple[str, ...]:
    dense = cost is cell.dense
    ratio = "own stop" if cost.ratio is None else f"{100 * cost.ratio:.1f} %"
    seconds = cost.seconds
    factor = f"{cost.factor.median:.2f} ({cost.factor.least:.2f}..{cost.factor.largest:.2f})"
    return (
        "all" if dense else ratio,
        str(cost.tokens),
        f"{100 * cell.share(cost):.1f} %",
        _ms(seconds.decode.median),
        _ms(seconds.preprocess.median),
        "-" if dense else _ms(seconds.select.median),
        _ms(seconds.embed.median),
        _ms(seconds.encode.median),
        _ms(cost.seeing.median),
        "" if dense else factor,
        "" if dense else f"{cell.over_share(cost):.2f}",
    )


def _resources(report: EncodeReport, encoder: EncoderReport) -> Table:
    title = (
        "Arithmetic, GFLOP (counted), and memory, MB above the program and its weights:\n"
        f"{report.memory}"
    )
    table = Table(title=title, title_justify="left", **COMPACT)
    _cell_columns(table)
    for name in ("select", "embed", "encode", "together", "of dense"):
        table.add_column(f"GFLOP\n{name}", justify="right", no_wrap=True)
    for stage in Stage:
        table.add_column(f"MB\n{stage.value}", justify="right", no_wrap=True)
    for cell in encoder.cells:
        table.add_section()
        for cost in (cell.dense, *cell.gazed):
            table.add_row(*_where(cell, cost), *_resource_row(cell, cost))
    return table


def _resource_row(cell: CellReport, cost: Cost) -> tuple[str, ...]:
    dense = cost is cell.dense
    peaks = ["-" if peak is None else f"{peak / 1e6:.0f}" for peak in cost.peak]
    if dense:
        peaks[list(Stage).index(Stage.SELECT)] = "-"
    return (
        "-" if dense else f"{cost.flops.select / 1e9:.1f}",
        f"{cost.flops.embed / 1e9:.1f}",
        f"{cost.flops.encode / 1e9:.1f}",
        f"{cost.total_flops / 1e9:.1f}",
        f"{100 * cost.total_flops / cell.dense.total_flops:.1f} %",
        *peaks,
    )


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"
