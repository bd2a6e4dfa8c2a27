"""The tables that `autogaze bench encode` prints."""

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autogaze.benchmarks.encode_report import CellReport, Cost, EncodeReport, EncoderReport
from autogaze.benchmarks.stages import Stage

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
