"""Loss against the share of patches: a row of panels a judge, a column a kind of clips."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autogaze.evaluation.choosers import CONTROLS
from autogaze.evaluation.quality.contenders import Serving
from autogaze.evaluation.quality.measure import Row
from autogaze.evaluation.quality.report import Curve, QualityReport
from autogaze.rendering.plot_style import (
    LineStyle,
    caption,
    clean,
    save,
    selector_styles,
    spread_out,
)

LABEL_GAP = 0.052
"""Between the labels of two curves, in heights of a panel."""
HABIT_DASHES = (7, 1.5, 1, 1.5)
"""Drawn, left out, and so on, in line widths."""


def plot_curves(report: QualityReport, path: str | Path) -> None:
    """A PNG. Both axes are logarithmic, intervals shaded, other clips' gazes dashed."""
    from matplotlib.figure import Figure

    judges, groups = report.measured.judges, report.groups
    widths = [1.9] + [1.0] * (len(groups) - 1)
    figure = Figure(
        figsize=(max(6.5, 2.25 * sum(widths)), 0.9 + 3.0 * len(judges)), layout="constrained"
    )
    panels = figure.subplots(
        len(judges), len(groups), squeeze=False, sharex="col", sharey="row", width_ratios=widths
    )
    rows = report.measured.rows
    styles = selector_styles(list(dict.fromkeys(row.selector for row in rows)))
    for line, judge in zip(panels, judges, strict=True):
        for axes, group in zip(line, groups, strict=True):
            _draw(axes, report.of(judge, group), rows, styles)
        line[0].set_ylabel(f"loss, judge {judge}", fontsize=8.5)
        _label(line[0], report.of(judge, groups[0]), rows, styles)  # when all have been drawn
    kinds = dict.fromkeys(clip.kind for clip in report.measured.clips)
    for axes, group in zip(panels[0], groups, strict=True):
        title = next(iter(kinds)) if len(groups) == 1 else group
        axes.set_title(f"{title} clips", loc="left", fontsize=9.5, fontweight="bold")
    for axes in panels[-1]:
        axes.set_xlabel("share of patches", fontsize=8.5)
    habit = (
        " Dashes and dots: the patches taken most often in other clips of the kind (habit), "
        "whatever this one shows."
        if report.has_habit
        else ""
    )
    words = [
        f"{report.about}. Mean loss of frames. Shaded: 95 % intervals from resampling whole "
        "videos and photographs; they hold how videos differ, which comparisons on the same clips do "
        "not. Dashed: the selector's own gazes of another clip of the kind (shuffled); where they are as "
        "good as its own, it saw nothing of this one." + habit,
        report.notes[1],
    ]
    caption(figure, words)
    save(figure, path)


def _draw(
    axes: Any, curves: tuple[Curve, ...], rows: tuple[Row, ...], styles: dict[str, LineStyle]
) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    for curve, row in reversed(list(zip(curves, rows, strict=True))):  # the first ones on top
        style = styles[row.selector]
        shares = [point.share for point in curve.points]
        losses = [point.loss.mean for point in curve.points]
        if row.serving is not Serving.OWN:
            dashes = HABIT_DASHES if row.serving is Serving.HABIT else style.dashes
            axes.plot(shares, losses, color=style.colour, linewidth=1.0, dashes=dashes, alpha=0.8)
            continue
        axes.plot(
            shares, losses, "-", color=style.colour, marker=style.marker, markersize=3.2,
            markerfacecolor="white" if style.hollow else style.colour,
            linewidth=1.2 if row.selector in CONTROLS else 1.8,
        )  # fmt: skip
        band = [(point.loss.low, point.loss.high) for point in curve.points]
        if all(low is not None for low, _ in band):
            low, high = np.array(band, dtype=float).T
            # A loss of zero has no place on a logarithmic axis.
            axes.fill_between(
                shares, np.maximum(low, 1e-6), high, color=style.colour, alpha=0.13, linewidth=0
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    taken = [point.share for curve in curves for point in curve.points]
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if tick < 1.1 * max(taken)]
    axes.set_xlim(left=min(taken) * 0.85)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    if high / low < 30:  # hardly a power of ten is marked
        digits = "25" if high / low > 4 else "23456789"
        axes.yaxis.set_minor_formatter(FuncFormatter(partial(_multiples, digits)))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7.5, which="both")
    clean(axes)


def _multiples(digits: str, value: float, _: int) -> str:
    """The value, if it is one of these multiples of a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""


def _label(
    axes: Any, curves: tuple[Curve, ...], rows: tuple[Row, ...], styles: dict[str, LineStyle]
) -> None:
    """Names at the right, each as near to its curve's end as the others allow."""
    ordered = sorted(
        zip(curves, rows, strict=True), key=lambda drawn: drawn[0].points[-1].loss.mean
    )
    largest = max(curve.points[-1].share for curve in curves)
    smallest = axes.get_xlim()[0]
    axes.set_xlim(smallest, largest * (largest / smallest) ** 0.55)
    low, high = np.log(axes.get_ylim())
    wanted = [(np.log(curve.points[-1].loss.mean) - low) / (high - low) for curve, _ in ordered]
    levels = spread_out(wanted, LABEL_GAP, 0, 1)
    for (curve, row), level in zip(ordered, levels, strict=True):
        end, colour = curve.points[-1], styles[row.selector].colour
        axes.annotate(
            curve.row, (end.share, end.loss.mean), xytext=(largest * 1.12, level),
            textcoords=axes.get_xaxis_transform(), ha="left", va="center",
            fontsize=7.5 if row.serving is Serving.OWN else 6.5, color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5,
                        "alpha": 0.6, "shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip
