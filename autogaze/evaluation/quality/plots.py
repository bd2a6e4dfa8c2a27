"""The plots of `autogaze bench quality`: loss against share of patches, and early stopping."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autogaze.evaluation.bootstrap import ALL
from autogaze.evaluation.quality.clips import KINDS
from autogaze.evaluation.quality.measure import Row
from autogaze.evaluation.quality.report import Curve, QualityReport
from autogaze.evaluation.quality.selectors import Variant
from autogaze.evaluation.quality.thresholds import ThresholdReport
from autogaze.evaluation.selectors import CONTROLS
from autogaze.rendering.plot_style import (
    GUIDE,
    INK,
    SERIES,
    LineStyle,
    caption,
    clean,
    interval_bars,
    leader,
    legend_above,
    make_panels,
    save,
    selector_styles,
    spread_out,
)

LABEL_GAP = 0.052
"""Between the labels of two curves, in heights of a panel."""
PRIOR_DASHES = (7, 1.5, 1, 1.5)
"""Lengths drawn and left out, in line widths."""


def plot_curves(report: QualityReport, path: str | Path) -> None:
    """A PNG: a row of panels per metric, a column per kind of clips.

    Both axes are logarithmic, intervals shaded, gazes at other clips dashed.
    """
    metrics, groups = report.measured.metrics, report.groups
    widths = [1.9] + [1.0] * (len(groups) - 1)
    size = max(6.5, 2.25 * sum(widths)), 0.9 + 3.0 * len(metrics)
    figure, panels = make_panels(
        len(metrics), len(groups), size, sharex="col", sharey="row", width_ratios=widths
    )
    rows = report.measured.rows
    styles = selector_styles(list(dict.fromkeys(row.selector for row in rows)))
    for line, metric in zip(panels, metrics, strict=True):
        for axes, group in zip(line, groups, strict=True):
            _draw(axes, report.of(metric, group), rows, styles)
        line[0].set_ylabel(f"{metric} loss", fontsize=8.5)
        _label(line[0], report.of(metric, groups[0]), rows, styles)  # when all have been drawn
    for axes, group in zip(panels[0], groups, strict=True):
        title = report.measured.clips[0].kind if len(groups) == 1 else group
        axes.set_title(f"{title} clips", loc="left", fontsize=9.5, fontweight="bold")
    for axes in panels[-1]:
        axes.set_xlabel("share of patches", fontsize=8.5)
    prior = (
        " Dashes and dots: the patches taken most often in other clips of the kind (content-blind "
        "prior)."
        if report.has_prior
        else ""
    )
    words = (
        f"{report.about}. Mean loss of frames. Shaded: 95 % intervals from resampling whole "
        "videos and photographs; they include the variation between videos, which comparisons on the same "
        "clips do not. Dashed: the selector's own gazes at another clip of the kind (shuffled); where they are as "
        f"good as its own, it saw nothing of this one.{prior}"
    )
    caption(figure, [words, report.units])
    save(figure, path)


def _draw(
    axes: Any, curves: Sequence[Curve], rows: Sequence[Row], styles: dict[str, LineStyle]
) -> None:
    for curve, row in reversed(list(zip(curves, rows, strict=True))):  # the first ones on top
        style = styles[row.selector]
        shares = [point.share for point in curve.points]
        losses = [point.loss.mean for point in curve.points]
        if row.variant is not Variant.OWN:
            dashes = PRIOR_DASHES if row.variant is Variant.PRIOR else style.dashes
            axes.plot(shares, losses, color=style.colour, linewidth=1.0, dashes=dashes, alpha=0.8)
            continue
        axes.plot(
            shares, losses, "-", color=style.colour, marker=style.marker, markersize=3.2,
            markerfacecolor=style.face, linewidth=1.2 if row.selector in CONTROLS else 1.8,
        )  # fmt: skip
        band = [(point.loss.low, point.loss.high) for point in curve.points]
        if all(low is not None for low, _ in band):
            low, high = np.array(band, dtype=float).T
            # A loss of zero has no place on a logarithmic axis.
            axes.fill_between(
                shares, np.maximum(low, 1e-6), high, color=style.colour, alpha=0.13, linewidth=0
            )
    _logarithmic(axes, [point.share for curve in curves for point in curve.points])
    axes.tick_params(labelsize=7.5, which="both")
    clean(axes)


def _logarithmic(axes: Any, shares: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if tick < 1.1 * max(shares)]
    axes.set_xlim(left=min(shares) * 0.85)
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


def _multiples(digits: str, value: float, _: int) -> str:
    """The value, if it is one of these multiples of a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""


def _label(
    axes: Any, curves: Sequence[Curve], rows: Sequence[Row], styles: dict[str, LineStyle]
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
    for (curve, row), level in zip(ordered, spread_out(wanted, LABEL_GAP, 0, 1), strict=True):
        end, colour = curve.points[-1], styles[row.selector].colour
        axes.annotate(
            curve.row, (end.share, end.loss.mean), xytext=(largest * 1.12, level),
            textcoords=axes.get_xaxis_transform(), ha="left", va="center",
            fontsize=7.5 if row.variant is Variant.OWN else 6.5, color=colour,
            arrowprops=leader(colour),
        )  # fmt: skip


TOLERANCE = 0.1
"""How far from the threshold the mean loss may be, as a share of it: the band that is drawn."""
GROUP_COLOURS = {ALL: INK, **dict(zip(KINDS, SERIES, strict=False))}


def plot_thresholds(report: QualityReport, path: str | Path) -> None:
    """A PNG: a row per selector; means at thresholds on the left, frames on the right.

    Raises:
        ValueError: the report is of a run without thresholds.
    """
    thresholds = report.thresholds
    if thresholds is None:
        raise ValueError("this report was made without thresholds")
    names = list(dict.fromkeys(point.name for point in thresholds.points))
    figure, panels = make_panels(len(names), 2, (9.4, 0.9 + 3.9 * len(names)))
    for (left, right), name in zip(panels, names, strict=True):
        _draw_means(left, thresholds, name)
        _draw_bins(right, thresholds, name)
        left.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        left.set_xlabel("threshold", fontsize=9)
        right.set_xlabel("predicted loss where frames stopped", fontsize=9)
        left.set_ylabel(f"actual {thresholds.metric} loss", fontsize=9)
        for axes in (left, right):
            axes.tick_params(labelsize=7.5)
            clean(axes)
    legend_above(figure, panels[0][0])
    words = (
        f"{report.about}. Left: mean loss of all frames where they stopped, by the threshold asked "
        f"for; bars: 95 % intervals from resampling whole videos; band: within {100 * TOLERANCE:g} % of "
        "the threshold. Right: frames of all thresholds, in parts of neighbouring predictions; a "
        "point is the mean of one part, larger with more frames. On the diagonal a prediction is right."
    )
    caption(figure, [words, f"Loss: {thresholds.unit}."])
    save(figure, path)


def _draw_means(axes: Any, report: ThresholdReport, name: str) -> None:
    points = [point for point in report.points if point.name == name]
    ends = np.array([0, 1.12 * max(point.threshold for point in points)])
    axes.fill_between(
        ends, (1 - TOLERANCE) * ends, (1 + TOLERANCE) * ends, color=GUIDE, alpha=0.18, linewidth=0
    )
    axes.plot(ends, ends, color=GUIDE, linewidth=0.8)
    groups = list(dict.fromkeys(point.group for point in points))
    for number, group in enumerate(groups):
        drawn = sorted((p for p in points if p.group == group), key=lambda p: p.threshold)
        # A little apart, so that all bars are seen.
        apart = 0.006 * ends[1] * (number - (len(groups) - 1) / 2)
        colour = GROUP_COLOURS[group]
        places = [p.threshold + apart for p in drawn]
        axes.plot(
            places, [p.actual.mean for p in drawn], "o-", color=colour, markersize=3.5,
            linewidth=2.0 if group == ALL else 1.3, label=group,
        )  # fmt: skip
        interval_bars(axes, places, [(p.actual.low, p.actual.high) for p in drawn], colour)
    axes.set_xlim(*ends)
    axes.set_ylim(bottom=0)


def _draw_bins(axes: Any, report: ThresholdReport, name: str) -> None:
    bins = [part for part in report.bins if part.name == name]
    top = max(max(part.predicted, part.actual) for part in bins) * 1.08
    axes.plot((0, top), (0, top), color=GUIDE, linewidth=0.8)
    most = max(part.frames for part in bins)
    for kind in dict.fromkeys(part.kind for part in bins):
        parts = [part for part in bins if part.kind == kind]
        losses = [p.predicted for p in parts], [p.actual for p in parts]
        axes.plot(*losses, color=GROUP_COLOURS[kind], linewidth=1.3)
        sizes = [30 * p.frames / most for p in parts]
        axes.scatter(*losses, s=sizes, color=GROUP_COLOURS[kind])
    axes.set_xlim(min(0, *(part.predicted for part in bins)), top)
    axes.set_ylim(0, top)
