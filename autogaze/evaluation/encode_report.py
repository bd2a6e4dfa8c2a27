"""Report of `autogaze bench encode`: tables of time, arithmetic and memory, and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from autogaze.evaluation.encode import CellReport, Cost, EncodeReport, EncoderReport
from autogaze.evaluation.tables import TextTable, print_tables
from autogaze.evaluation.timing import Stage
from autogaze.rendering.plot_style import (
    INK,
    WARNING,
    caption,
    clean,
    legend_above,
    make_panels,
    save,
)


def print_report(report: EncodeReport, console: Console) -> None:
    """Times, then arithmetic and memory, then which selectors break even."""
    for encoder in report.encoders:
        print_tables(console, [_times(report, encoder), _resources(report, encoder)])
        for line in comparisons(encoder):
            console.print(line, markup=False)
        console.print()
    print_tables(console, (), report.notes)


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


def _times(report: EncodeReport, encoder: EncoderReport) -> TextTable:
    weights = ", random weights" if encoder.random_weights else ""
    width, height = report.video_size
    computed = ", ".join(encoder.backends)
    title = (
        f"Time, ms. {encoder.name}{weights}, gazed at {encoder.scales}, {report.attn_type} "
        f"attention (backend: {computed})\n"
        f"{report.video}, {width} x {height}; {report.hardware}, {report.device}\n"
        f"medians of {report.repeats} rounds; share: of dense encoding's tokens; dense encoding gets "
        f"{report.dense_batch} frames at once"
    )
    header = (
        *("patches", "tokens", "share", *(stage.value for stage in Stage)),
        *("select to\nencode", "x as fast as\ndense (range)", "encode / share\nof dense"),
    )
    rows = []
    for cell in encoder.cells:
        for cost in cell.costs:
            dense = cost is cell.dense
            ratio = "early stop" if cost.ratio is None else f"{100 * cost.ratio:.1f} %"
            factor = cost.factor
            seconds = {stage: _ms(cost.seconds[stage].median) for stage in Stage}
            if dense:
                seconds[Stage.SELECT] = "-"
            rows.append(
                (
                    "all" if dense else ratio,
                    str(cost.tokens),
                    f"{100 * cost.share:.1f} %",
                    *seconds.values(),
                    _ms(cost.select_to_encode.median),
                    ""
                    if dense
                    else f"{factor.median:.2f} ({factor.least:.2f}..{factor.largest:.2f})",
                    "" if dense else f"{cost.over_share:.2f}",
                )
            )
    return _table(title, encoder, header, rows)


def _resources(report: EncodeReport, encoder: EncoderReport) -> TextTable:
    title = (
        "Arithmetic, GFLOP (counted), and memory, MB above the program and its weights:\n"
        f"{report.memory}"
    )
    header = (
        *(f"GFLOP\n{name}" for name in ("select", "embed", "encode", "together", "of dense")),
        *(f"MB\n{stage.value}" for stage in Stage),
    )
    rows = []
    for cell in encoder.cells:
        for cost in cell.costs:
            flops = {stage: f"{flops / 1e9:.1f}" for stage, flops in cost.flops.items()}
            peaks = {
                s: "-" if peak is None else f"{peak / 1e6:.0f}" for s, peak in cost.peak.items()
            }
            if cost is cell.dense:
                flops[Stage.SELECT] = peaks[Stage.SELECT] = "-"
            total, of_dense = cost.total_flops, cost.total_flops / cell.dense.total_flops
            together = f"{total / 1e9:.1f}", f"{100 * of_dense:.1f} %"
            rows.append((*flops.values(), *together, *peaks.values()))
    return _table(title, encoder, header, rows)


def _table(
    title: str, encoder: EncoderReport, header: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> TextTable:
    """One row per way to encode; what a cell's rows share stands in its first one."""
    where: list[tuple[str, ...]] = []
    rules = []
    for cell in encoder.cells:
        fps = f"{cell.fps:g}" + (f"\n(has {cell.fps_found:g})" if cell.fps_found < cell.fps else "")
        pixels = f"{cell.resolution}"
        if cell.pixels != cell.resolution:
            pixels += f"\n(as {cell.pixels})"
        rules.append(len(where))
        names = [cost.selector for cost in cell.costs]
        where.append((fps, pixels, str(cell.frames), names[0]))
        where += [("", "", "", name) for name in names[1:]]
    return TextTable(
        title,
        ("fps", "px", "frames", "selector", *header),
        [(*left, *right) for left, right in zip(where, rows, strict=True)],
        tuple(rules),
        names=3,
        compact=True,
    )


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
    resolutions = list(dict.fromkeys(c.resolution for e in report.encoders for c in e.cells))
    bars = max(
        sum(len(c.costs) for c in e.cells if c.resolution == pixels)
        for e in report.encoders
        for pixels in resolutions
    )
    size = max(7.5, len(resolutions) * (1.3 + 0.36 * bars)), 1.6 + 3.3 * len(report.encoders)
    figure, panels = make_panels(len(report.encoders), len(resolutions), size)
    for row, encoder in zip(panels, report.encoders, strict=True):
        for axes, resolution in zip(row, resolutions, strict=True):
            _draw(axes, encoder, [c for c in encoder.cells if c.resolution == resolution])
        row[0].set_ylabel("time per frame (ms)")
    legend_above(figure, panels[0][0])
    words = (
        f"{Path(report.video).name}. Clips of up to 16 frames, {report.attn_type} attention, "
        f"{report.hardware}, {report.device}. Medians of {report.repeats} rounds; numbers: how many "
        "times faster than dense (select + embed + encode), red unless faster in every round; dense "
        f"encoding in batches of {report.dense_batch} frames."
    )
    caption(figure, [words, " ".join(report.notes)])
    save(figure, path)


def _draw(axes: Any, encoder: EncoderReport, cells: Sequence[CellReport]) -> None:
    """Stacked bars, dense beside gazed, in a group per frame rate."""
    at = 0.0
    ticks: dict[float, str] = {}

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
            ticks[at] = cost.selector
            at += 1
        rate = f"{cell.fps:g} fps"
        if cell.fps_found < cell.fps:
            rate += f" (video: {cell.fps_found:g})"
        axes.text(
            (first + at - 1) / 2, 1.0, rate, ha="center", va="bottom", fontsize=8.5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        at += 1.2
    axes.set_xticks(
        list(ticks), ticks.values(), rotation=55, ha="right", rotation_mode="anchor", fontsize=7.5
    )
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.8, at - 1.4)
    axes.set_ylim(0, highest * 1.12)
    size = f"{cells[0].pixels} px" + (f", {cells[0].tiles} tiles" if cells[0].tiles > 1 else "")
    title = f"{Path(encoder.name).name}, {size}"
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=16)
    clean(axes)
