"""Report of `autogaze bench fidelity`: a table, and a plot against the share of tokens."""

from pathlib import Path
from typing import Any

from rich.console import Console

from autogaze.evaluation.bootstrap import Estimate
from autogaze.evaluation.fidelity import FidelityReport
from autogaze.evaluation.tables import TextTable, changes, print_tables
from autogaze.rendering.plot_style import (
    GUIDE,
    LineEnd,
    caption,
    clean,
    interval_bars,
    label_ends,
    make_panels,
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
    header = (
        *("selector", "patches", "tokens\nof dense", "cosine\nclips", "cosine\nframes"),
        *("same neighbour\nclips", "same neighbour\nframes"),
    )
    rows = [
        (
            row.selector,
            f"{100 * row.ratio:g} %",
            f"{100 * row.share:.1f} %",
            _figure(row.clip_cosine, ".4f"),
            _figure(row.frame_cosine, ".4f"),
            _figure(row.clip_neighbour, ".0%"),
            _figure(row.frame_neighbour, ".0%"),
        )
        for row in report.rows
    ]
    print_tables(console, [TextTable(title, header, rows, changes([r[0] for r in rows]))], notes)


def _figure(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    return format(estimate.mean, form) + estimate.brackets(lambda end: format(end, form))


def plot_fidelity(report: FidelityReport, path: str | Path) -> None:
    """A PNG: cosine on the left, nearest-neighbour agreement on the right; clips and frames."""
    from matplotlib.ticker import PercentFormatter

    figure, ((cosine, neighbour),) = make_panels(1, 2, (11, 4.6))
    cosine_ends = _lines(cosine, report, "cosine")
    neighbour_ends = _lines(neighbour, report, "neighbour")
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
    title = f"{Path(report.encoder).name}{weights}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    names = ", ".join(Path(video).name for video in report.videos[:4])
    more = f" and {len(report.videos) - 4} more" if len(report.videos) > 4 else ""
    what = (
        f"{report.num_clips} clips, {report.num_frames} frames of {names}{more}; gazed at "
        f"{report.scales}, {report.attn_type}, {report.device}. Solid: mean over a clip's frames; dashed or dotted: "
        "frames (neighbours in other clips). Bars: 95 % intervals; points are offset horizontally for legibility."
    )
    caption(figure, [what, " ".join(report.notes)])
    save(figure, path)


def _lines(axes: Any, report: FidelityReport, what: str) -> list[LineEnd]:
    """Lines of every selector: clips solid, if they have this figure, and frames dashed."""
    names = list(dict.fromkeys(row.selector for row in report.rows))
    widest = max(row.share for row in report.rows)
    ends = []
    for name, style in selector_styles(names).items():
        # Same shares for most selectors: a little apart, so that all bars are seen.
        rows = sorted((r for r in report.rows if r.selector == name), key=lambda row: row.share)
        apart = 0.004 * widest * (names.index(name) - len(names) / 2)
        shares = [row.share + apart for row in rows]
        means = [getattr(row, f"frame_{what}").mean for row in rows]
        axes.plot(shares, means, color=style.colour, linewidth=1.1, dashes=style.dashes, alpha=0.9)
        clips: list[Estimate] = [e for row in rows if (e := getattr(row, f"clip_{what}"))]
        if clips:
            means = [e.mean for e in clips]
            axes.plot(
                shares, means, "-", color=style.colour, marker=style.marker, markersize=4.5,
                markerfacecolor=style.face, linewidth=1.6,
            )  # fmt: skip
            interval_bars(axes, shares, [(e.low, e.high) for e in clips], style.colour)
        # Of a checkpoint's path its last part, for want of room.
        ends.append(LineEnd(Path(name).name, style.colour, shares[-1], means[-1]))
    return ends
