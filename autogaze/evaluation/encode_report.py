"""What `autogaze bench encode` shows: tables of time, arithmetic and memory, and a plot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autogaze.evaluation.encode import CellReport, Cost, EncodeReport, EncoderReport
from autogaze.evaluation.timing import Stage
from autogaze.rendering.plot_style import INK, WARNING, caption, clean, legend_above, save


def print_report(report: EncodeReport, console: Console) -> None:
    """Times, then arithmetic and memory, then which selectors break even."""
    for encoder in report.encoders:
        console.print(_times(report, encoder))
        console.print(_resources(report, encoder))
        for line in comparisons(encoder):
            console.print(line, markup=False)
        console.print()
    for note in report.notes:
        console.print(note, style="dim")


def comparisons(encoder: EncoderReport) -> list[str]:
    """For every cell, which selectors make encoding faster than dense encoding."""
    lines = ["Selecting + embedding + encoding against dense encoding:"]
    for cell in encoder.cells:
        where = [f"{cell.fps:g} fps", f"{cell.resolution} px", f"{cell.frames} frames"]
        if cell.fps_found < cell.fps:
            where[0] += f" (has {cell.fps_found:g})"
        if cell.pixels != cell.resolution:
            where[1] += f" (shown at {cell.pixels})"
        if cell.tiles > 1:
            where.append(f"{cell.tiles} tiles")
        outcomes = [f"{cost.selector} {_outcome(cost)}" for cost in cell.gazed]
        lines.append(f"{', '.join(where)}: {'; '.join(outcomes)}")
    return lines


def _outcome(cost: Cost) -> str:
    if cost.outcome == "undecided":
        return f"undecided ({cost.factor.least:.2f} to {cost.factor.largest:.2f} x as fast)"
    if cost.outcome == "faster":
        return f"{cost.factor.median:.2f} x faster"
    return f"{1 / cost.factor.median:.2f} x SLOWER"


def _times(report: EncodeReport, encoder: EncoderReport) -> Table:
    weights = ", random weights" if encoder.random_weights else ""
    width, height = report.video_size
    title = (
        f"Time, ms. {encoder.name}{weights}, gazed at {encoder.scales}, {report.attn_type}\n"
        f"{report.video}, {width} x {height}; {report.hardware}, {report.place}\n"
        f"medians of {report.repeats} rounds; share: of dense encoding's tokens; dense encoding gets "
        f"{report.dense_batch} frames at once"
    )

    def cells(cell: CellReport, cost: Cost) -> Sequence[str]:
        dense = cost is cell.dense
        ratio = "early stop" if cost.ratio is None else f"{100 * cost.ratio:.1f} %"
        factor = cost.factor
        seconds = [_ms(cost.seconds[stage].median) for stage in Stage]
        if dense:
            seconds[list(Stage).index(Stage.SELECT)] = "-"
        return (
            "all" if dense else ratio,
            str(cost.tokens),
            f"{100 * cost.share:.1f} %",
            *seconds,
            _ms(cost.select_to_encode.median),
            "" if dense else f"{factor.median:.2f} ({factor.least:.2f}..{factor.largest:.2f})",
            "" if dense else f"{cost.over_share:.2f}",
        )

    columns = ("patches", "tokens", "share", *(stage.value for stage in Stage), "select to\nencode")
    return _table(
        title, encoder, (*columns, "x as fast as\ndense (range)", "encode / share\nof dense"), cells
    )


def _resources(report: EncodeReport, encoder: EncoderReport) -> Table:
    title = (
        "Arithmetic, GFLOP (counted), and memory, MB above the program and its weights:\n"
        f"{report.memory}"
    )

    def cells(cell: CellReport, cost: Cost) -> Sequence[str]:
        dense = cost is cell.dense
        flops = [f"{flops / 1e9:.1f}" for flops in cost.flops.values()]
        peaks = ["-" if peak is None else f"{peak / 1e6:.0f}" for peak in cost.peak.values()]
        if dense:
            flops[0] = peaks[list(Stage).index(Stage.SELECT)] = "-"
        of_dense = cost.total_flops / cell.dense.total_flops
        return (*flops, f"{cost.total_flops / 1e9:.1f}", f"{100 * of_dense:.1f} %", *peaks)

    columns = [f"GFLOP\n{name}" for name in ("select", "embed", "encode", "together", "of dense")]
    return _table(title, encoder, [*columns, *(f"MB\n{stage.value}" for stage in Stage)], cells)


def _table(
    title: str,
    encoder: EncoderReport,
    columns: Sequence[str],
    cells: Callable[[CellReport, Cost], Sequence[str]],
) -> Table:
    """One row per way to encode; what a cell's rows share stands in its first one."""
    # Fifteen columns in 160 characters.
    table = Table(
        title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    for name in ("fps", "px", "frames"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("selector", overflow="fold", min_width=10, max_width=24)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for cell in encoder.cells:
        table.add_section()
        fps = f"{cell.fps:g}" + (f"\n(has {cell.fps_found:g})" if cell.fps_found < cell.fps else "")
        pixels = f"{cell.resolution}"
        if cell.pixels != cell.resolution:
            pixels += f"\n(as {cell.pixels})"
        where: tuple[str, ...] = (fps, pixels, str(cell.frames))
        for cost in cell.costs:
            table.add_row(*where, escape(cost.selector), *cells(cell, cost))
            where = ("", "", "")
    return table


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


STAGE_COLOURS = {
    Stage.DECODE: "#d5d8dd",
    Stage.PREPROCESS: "#a3a9b3",
    Stage.SELECT: "#e8832a",
    Stage.EMBED: "#7cc6bf",
    Stage.ENCODE: "#2b5fab",
}


def plot_encode(report: EncodeReport, path: str | Path) -> None:
    """A PNG of seconds per frame by stage: a row per encoder, a column per resolution."""
    from matplotlib.figure import Figure

    resolutions = list(dict.fromkeys(c.resolution for e in report.encoders for c in e.cells))
    bars = max(
        sum(len(c.costs) for c in e.cells if c.resolution == pixels)
        for e in report.encoders
        for pixels in resolutions
    )
    width = max(7.5, len(resolutions) * (1.3 + 0.36 * bars))
    figure = Figure(figsize=(width, 1.6 + 3.3 * len(report.encoders)), layout="constrained")
    panels = figure.subplots(len(report.encoders), len(resolutions), squeeze=False)
    for row, encoder in zip(panels, report.encoders, strict=True):
        for axes, resolution in zip(row, resolutions, strict=True):
            _draw(axes, encoder, [c for c in encoder.cells if c.resolution == resolution])
        row[0].set_ylabel("time per frame (ms)")
    legend_above(figure, panels[0][0])
    words = (
        f"{Path(report.video).name}. Clips of up to 16 frames, {report.attn_type} attention, "
        f"{report.hardware}, {report.place}. Medians of {report.repeats} rounds; numbers: how many "
        "times faster than dense (select + embed + encode), red unless faster in every round; dense "
        f"encoding in batches of {report.dense_batch} frames."
    )
    caption(figure, [words, " ".join(report.notes)])
    save(figure, path)


def _draw(axes: Any, encoder: EncoderReport, cells: Sequence[CellReport]) -> None:
    """Stacked bars, dense beside gazed, in a group per frame rate."""
    at = 0.0
    ticks: list[float] = []
    names: list[str] = []

    def ms(seconds: float, cell: CellReport) -> float:
        return 1e3 * seconds / max(1, cell.frames)

    highest = max(ms(cost.all_stages.median, cell) for cell in cells for cost in cell.costs)
    for cell in cells:
        first = at
        for cost in cell.costs:
            top = 0.0
            for stage in Stage:
                height = ms(cost.seconds[stage].median, cell)
                axes.bar(
                    at, height, 0.8, bottom=top, color=STAGE_COLOURS[stage], linewidth=0,
                    label=None if ticks else stage.value,
                )  # fmt: skip
                top += height
            if cost is not cell.dense:
                axes.text(
                    at, top + 0.01 * highest, f"{cost.factor.median:.2g}x", ha="center",
                    va="bottom", fontsize=7, color=INK if cost.outcome == "faster" else WARNING,
                )  # fmt: skip
            ticks.append(at)
            names.append(cost.selector)
            at += 1
        rate = f"{cell.fps:g} fps"
        if cell.fps_found < cell.fps:
            rate += f" (video: {cell.fps_found:g})"
        axes.text(
            (first + at - 1) / 2, 1.0, rate, ha="center", va="bottom", fontsize=8.5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        at += 1.2
    axes.set_xticks(ticks, names, rotation=55, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.8, at - 1.4)
    axes.set_ylim(0, highest * 1.12)
    size = f"{cells[0].pixels} px" + (f", {cells[0].tiles} tiles" if cells[0].tiles > 1 else "")
    title = f"{Path(encoder.name).name}, {size}"
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=16)
    clean(axes)
