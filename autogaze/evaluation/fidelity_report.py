"""What `autogaze bench fidelity` shows: a table, and a plot against the share of tokens."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autogaze.evaluation.bootstrap import Estimate
from autogaze.evaluation.fidelity import Fidelity, FidelityReport
from autogaze.rendering.plot_style import (
    GUIDE,
    LineEnd,
    caption,
    clean,
    label_ends,
    save,
    selector_styles,
)


def print_report(report: FidelityReport, console: Console) -> None:
    """How faithful every selector is at every budget, and how to read it."""
    notes = report.notes
    if report.random_weights:
        console.print(notes[0], style="bold red")
        notes = notes[1:]
    videos = f"{len(report.videos)} video{'s' if len(report.videos) > 1 else ''}"
    title = (
        f"Gazed against dense features: {report.encoder}, {report.scales}, {report.attn_type}\n"
        f"{videos}, {report.num_clips} clips, {report.num_frames} frames"
    )
    table = Table(title=escape(title), title_justify="left")
    table.add_column("selector")
    for name in ("patches", "tokens\nof dense", "cosine\nclips", "cosine\nframes"):
        table.add_column(name, justify="right")
    for name in ("same neighbour\nclips", "same neighbour\nframes"):
        table.add_column(name, justify="right")
    for number, row in enumerate(report.rows):
        if number and row.selector != report.rows[number - 1].selector:
            table.add_section()
        table.add_row(
            escape(row.selector),
            f"{100 * row.ratio:g} %",
            f"{100 * row.share:.1f} %",
            _figure(row.clip_cosine, ".4f"),
            _figure(row.frame_cosine, ".4f"),
            _figure(row.clip_neighbour, ".0%"),
            _figure(row.frame_neighbour, ".0%"),
        )
    console.print(table)
    for note in notes:
        console.print(note, style="dim")


def _figure(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    mean = format(estimate.mean, form)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ({format(estimate.low, form)}..{format(estimate.high, form)})"


def plot_fidelity(report: FidelityReport, path: str | Path) -> None:
    """A PNG: cosine on the left, nearest-neighbour agreement on the right; clips and frames."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    cosine, neighbour = figure.subplots(1, 2)
    cosine_ends = _lines(cosine, report, lambda row: row.clip_cosine, lambda row: row.frame_cosine)
    neighbour_ends = _lines(
        neighbour, report, lambda row: row.clip_neighbour, lambda row: row.frame_neighbour
    )
    between = cosine.get_ylim()[0] < report.between_clips
    if between:
        cosine.axhline(report.between_clips, color=GUIDE, linewidth=0.8, linestyle=":", zorder=1)
    cosine.set_ylabel("cosine with the dense feature")
    neighbour.set_ylabel("same nearest neighbour as dense")
    neighbour.set_ylim(-0.02, 1.02)
    neighbour.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (cosine, neighbour):
        axes.set_xlabel("tokens, as a share of dense encoding's")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(left=0)
        clean(axes)
    if between:
        right = cosine.get_xlim()[1]
        cosine_ends.append(LineEnd("two clips, dense", GUIDE, right, report.between_clips))
    label_ends(cosine, cosine_ends)
    label_ends(neighbour, neighbour_ends)
    weights = ", RANDOM WEIGHTS" if report.random_weights else ""
    figure.suptitle(
        f"{Path(report.encoder).name}{weights}", x=0.01, ha="left", fontsize=10, fontweight="bold"
    )
    names = ", ".join(Path(video).name for video in report.videos[:4])
    more = f" and {len(report.videos) - 4} more" if len(report.videos) > 4 else ""
    what = (
        f"{report.num_clips} clips, {report.num_frames} frames of {names}{more}; gazed at "
        f"{report.scales}, {report.attn_type}, {report.place}. Solid: mean over a clip's frames; dashed or dotted: "
        "frames (neighbours in other clips). Bars: the clips' intervals. Selectors are drawn a little apart."
    )
    caption(figure, [what, " ".join(report.notes)])
    save(figure, path)


def _lines(
    axes: Any,
    report: FidelityReport,
    clip: Callable[[Fidelity], Estimate | None],
    frame: Callable[[Fidelity], Estimate],
) -> list[LineEnd]:
    names = list(dict.fromkeys(row.selector for row in report.rows))
    widest = max(row.share for row in report.rows)
    ends = []
    for name, style in selector_styles(names).items():
        # Same shares for most selectors: a little apart, so that all bars are seen.
        rows = sorted((r for r in report.rows if r.selector == name), key=lambda row: row.share)
        apart = 0.004 * widest * (names.index(name) - len(names) / 2)
        shares = [row.share + apart for row in rows]
        # All of a report's rows have figures of clips, or none.
        solid = [e for row in rows if (e := clip(row)) is not None]
        means = [e.mean for e in solid] or [math.nan] * len(rows)
        axes.plot(
            shares, means, "-", color=style.colour, marker=style.marker,
            markersize=4.5, markerfacecolor=style.face,
            linewidth=1.6,
        )  # fmt: skip
        dashed = [frame(row).mean for row in rows]
        axes.plot(shares, dashed, color=style.colour, linewidth=1.1, dashes=style.dashes, alpha=0.9)
        bars = [e for e in solid if e.low is not None and e.high is not None]
        if len(bars) == len(rows):
            axes.vlines(
                shares, [e.low for e in bars], [e.high for e in bars], color=style.colour,
                linewidth=1.0, alpha=0.55,
            )  # fmt: skip
        # Of a checkpoint's path its last part, for want of room.
        ends.append(
            LineEnd(Path(name).name, style.colour, shares[-1], means[-1] if solid else dashed[-1])
        )
    return ends
