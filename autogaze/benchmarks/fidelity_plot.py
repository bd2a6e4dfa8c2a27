"""Cosine of gazed with dense features, and common neighbours, against the share of tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autogaze.benchmarks.fidelity import Fidelity, FidelityReport
from autogaze.benchmarks.fidelity_measures import Estimate
from autogaze.benchmarks.figures import caption, clean, save, selector_colours


def plot_fidelity(report: FidelityReport, path: str | Path) -> None:
    """A PNG: cosine on the left, nearest-neighbour agreement on the right; clips and frames."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    cosine, neighbour = figure.subplots(1, 2)
    _lines(cosine, report, lambda row: row.clip_cosine, lambda row: row.frame_cosine)
    _lines(neighbour, report, lambda row: row.clip_neighbour, lambda row: row.frame_neighbour)
    if cosine.get_ylim()[0] < report.between_clips:
        cosine.axhline(report.between_clips, color="#8a9099", linewidth=0.8, linestyle=":")
        cosine.annotate(
            "two different clips, dense", (1, report.between_clips),
            xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=7, color="#555a63",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
    cosine.set_ylabel("cosine with the dense feature")
    neighbour.set_ylabel("same nearest neighbour as dense")
    neighbour.set_ylim(-0.02, 1.02)
    neighbour.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (cosine, neighbour):
        axes.set_xlabel("tokens, as a share of dense encoding's")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(left=0)
        clean(axes)
    handles, labels = cosine.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    weights = ", RANDOM WEIGHTS" if report.random_weights else ""
    figure.suptitle(
        f"{Path(report.encoder).name}{weights}", x=0.01, ha="left", fontsize=10, fontweight="bold"
    )
    names = ", ".join(Path(video).name for video in report.videos[:4])
    more = f" and {len(report.videos) - 4} more" if len(report.videos) > 4 else ""
    what = (
        f"{report.num_clips} clips, {report.num_frames} frames of {names}{more}; gazed at "
        f"{report.scales}, {report.attn_type}, {report.place}. Solid: mean over a clip's frames; dashed: frames "
        "(neighbours in other clips). Bars: the clips' intervals. Selectors are drawn a little apart."
    )
    caption(figure, [what, " ".join(report.notes)])
    save(figure, path)


def _lines(
    axes: Any,
    report: FidelityReport,
    clip: Callable[[Fidelity], Estimate],
    frame: Callable[[Fidelity], Estimate],
) -> None:
    names = list(dict.fromkeys(row.selector for row in report.rows))
    widest = max(row.share for row in report.rows)
    for name, colour in selector_colours(names).items():
        # Same shares for most selectors: a little apart, so that all bars are seen.
        rows = sorted((r for r in report.rows if r.selector == name), key=lambda row: row.share)
        apart = 0.004 * widest * (names.index(name) - len(names) / 2)
        shares = [row.share + apart for row in rows]
        solid = [clip(row) for row in rows]
        axes.plot(
            shares, [e.mean for e in solid], "o-", color=colour, markersize=4, linewidth=1.6,
            label=name,
        )  # fmt: skip
        dashed = [frame(row).mean for row in rows]
        axes.plot(shares, dashed, "--", color=colour, linewidth=1.0, alpha=0.8)
        bars = [e for e in solid if e.low is not None and e.high is not None]
        if len(bars) == len(solid):
            axes.vlines(
                shares, [e.low for e in bars], [e.high for e in bars], color=colour, linewidth=1.0,
                alpha=0.55,
            )  # fmt: skip
