"""Predicted against actual loss at the stop: whether a threshold gives what it says."""

from pathlib import Path
from typing import Any

from autogaze.evaluation.quality.bootstrap import ALL
from autogaze.evaluation.quality.clips import KINDS
from autogaze.evaluation.quality.report import QualityReport
from autogaze.evaluation.quality.stops import StopReport
from autogaze.rendering.plot_style import SERIES, caption, clean, save

TOLERANCE = 0.1
"""How far from the threshold the mean loss may be, as a share of it: the band that is drawn."""
COLOURS = {ALL: "#33363d", **dict(zip(KINDS, SERIES, strict=False))}


def plot_stops(report: QualityReport, path: str | Path) -> None:
    """A PNG: a row for each selector; means at thresholds on the left, frames on the right.

    Raises:
        ValueError: the report is of a run without thresholds.
    """
    from matplotlib.figure import Figure

    stops = report.stops
    if stops is None:
        raise ValueError("this report has no stops: it was made without thresholds")
    names = list(dict.fromkeys(point.name for point in stops.points))
    figure = Figure(figsize=(9.4, 0.9 + 3.9 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(panels, names, strict=True):
        _thresholds(left, stops, name)
        _frames(right, stops, name)
        left.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        left.set_xlabel("threshold", fontsize=9)
        right.set_xlabel("loss predicted at the stop", fontsize=9)
        left.set_ylabel(f"actual loss, judge {stops.judge}", fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8.5
    )
    words = [
        f"{report.about}. Left: mean loss of all frames where they stopped, by the threshold asked "
        f"for; bars: 95 % intervals from resampling whole videos; band: within {100 * TOLERANCE:g} % of "
        "the threshold. Right: frames of all thresholds, in parts of neighbouring predictions; a "
        "point is the mean of one part, larger with more frames. On the diagonal a prediction is right.",
        f"Loss: {stops.unit}.",
    ]
    caption(figure, words)
    save(figure, path)


def _thresholds(axes: Any, stops: StopReport, name: str) -> None:
    points = [point for point in stops.points if point.name == name]
    thresholds = sorted({point.threshold for point in points})
    ends = 0.0, max(thresholds) * 1.12
    axes.fill_between(
        ends, [(1 - TOLERANCE) * x for x in ends], [(1 + TOLERANCE) * x for x in ends],
        color="#8a9099", alpha=0.18, linewidth=0,
    )  # fmt: skip
    axes.plot(ends, ends, color="#8a9099", linewidth=0.8)
    groups = list(dict.fromkeys(point.group for point in points))
    for number, group in enumerate(groups):
        drawn = sorted((p for p in points if p.group == group), key=lambda p: p.threshold)
        # A little apart, so that all bars are seen.
        apart = 0.006 * ends[1] * (number - (len(groups) - 1) / 2)
        across = [point.threshold + apart for point in drawn]
        colour = COLOURS[group]
        axes.plot(
            across, [p.actual.mean for p in drawn], "o-", color=colour, markersize=3.5,
            linewidth=2.0 if group == ALL else 1.3, label=group,
        )  # fmt: skip
        bars = [(x, p.actual) for x, p in zip(across, drawn, strict=True)]
        for x, actual in bars:
            if actual.low is not None and actual.high is not None:
                axes.vlines(x, actual.low, actual.high, color=colour, linewidth=1.0, alpha=0.6)
    axes.set_xlim(*ends)
    axes.set_ylim(bottom=0)
    _finish(axes)


def _frames(axes: Any, stops: StopReport, name: str) -> None:
    bins = [part for part in stops.bins if part.name == name]
    top = max(max(part.predicted, part.actual) for part in bins) * 1.08
    axes.plot((0, top), (0, top), color="#8a9099", linewidth=0.8)
    most = max(part.frames for part in bins)
    for kind in dict.fromkeys(part.kind for part in bins):
        parts = [part for part in bins if part.kind == kind]
        axes.plot(
            [p.predicted for p in parts], [p.actual for p in parts], color=COLOURS[kind],
            linewidth=1.3,
        )  # fmt: skip
        axes.scatter(
            [p.predicted for p in parts], [p.actual for p in parts],
            s=[30 * p.frames / most for p in parts], color=COLOURS[kind],
        )  # fmt: skip
    axes.set_xlim(min(0, *(part.predicted for part in bins)), top)
    axes.set_ylim(0, top)
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.tick_params(labelsize=7.5)
    clean(axes)
