"""The plots of an evaluation: accuracy against tokens, and seconds by stage."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from autogaze.evaluation.answers.answering import CONTROLS, DENSE, STAGES
from autogaze.evaluation.answers.report import AnswersReport, Row
from autogaze.evaluation.bootstrap import ALL
from autogaze.rendering.plot_style import (
    GUIDE,
    INK,
    MUTED,
    SERIES,
    LineEnd,
    LineStyle,
    caption,
    clean,
    interval_bars,
    label_ends,
    legend_above,
    make_panels,
    save,
    selector_styles,
)

CHANCE = 0.25
"""Accuracy of guessing among four options."""
APART = 0.008
"""Between intervals at one budget, in widths of a panel, so that all are seen."""


def plot_accuracy(report: AnswersReport, path: str | Path) -> None:
    """A PNG: accuracy against tokens of the prompt, a line per selector, a panel per group."""
    groups = report.groups
    size = (max(6.5, 2.6 + 2.6 * len(groups)), 4.2)
    widths = [1.5] + [1.0] * (len(groups) - 1)
    figure, panels = make_panels(1, len(groups), size, sharey=True, width_ratios=widths)
    names = list(dict.fromkeys(row.condition.selector for row in report.rows))
    styles = {**selector_styles([n for n in names if n != DENSE]), DENSE: LineStyle(INK, "*")}
    if "uniform" in styles:
        styles["uniform"] = LineStyle(MUTED, "^", hollow=True)
    for axes, group in zip(panels[0], groups, strict=True):
        for number, name in enumerate(names):
            rows = [row for row in report.rows if row.condition.selector == name]
            _draw(axes, rows, group, styles[name], APART * (number - (len(names) - 1) / 2))
        _mark_budgets(axes, report)
        axes.axhline(100 * CHANCE, color=GUIDE, linewidth=0.8, dashes=(2, 2))
        title = report.questions.name if group == ALL else group
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        axes.set_xlabel("tokens of the prompt", fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        clean(axes)
    panels[0][0].set_ylabel("right answers in %", fontsize=8.5)
    _label(panels[0][-1], report, names, groups[-1], styles)
    words = (
        f"{report.about}. Bars: 95 % intervals from resampling whole videos; they include the variation "
        "between videos, which differences on the same questions do not. Dashed: guessing."
    )
    caption(figure, [words])
    save(figure, path)


def _draw(axes: Any, rows: Sequence[Row], group: str, style: LineStyle, apart: float) -> None:
    """One selector: its budgets, each a little (`apart`, a share of its tokens) beside the others'."""
    rows = sorted(rows, key=lambda row: row.cost.prompt_tokens)
    tokens = [row.cost.prompt_tokens * (1 + apart) for row in rows]
    accuracy = [row.accuracy[group] for row in rows]
    control = rows[0].condition.selector in CONTROLS
    axes.plot(
        tokens, [100 * one.mean for one in accuracy], "-", color=style.colour, marker=style.marker,
        markersize=9 if style.marker == "*" else 4.5, markerfacecolor=style.face,
        linewidth=1.2 if control else 1.8,
    )  # fmt: skip
    ends = [
        (None, None) if one.low is None or one.high is None else (100 * one.low, 100 * one.high)
        for one in accuracy
    ]
    interval_bars(axes, tokens, ends, style.colour)


def _label(
    axes: Any, report: AnswersReport, names: Sequence[str], group: str, styles: dict[str, LineStyle]
) -> None:
    """The names of the lines, right of the last panel."""
    ends = []
    for name in names:
        rows = [row for row in report.rows if row.condition.selector == name]
        last = max(rows, key=lambda row: row.cost.prompt_tokens)
        height = 100 * last.accuracy[group].mean
        ends.append(LineEnd(name, styles[name].colour, last.cost.prompt_tokens, height))
    label_ends(axes, ends)


def _mark_budgets(axes: Any, report: AnswersReport) -> None:
    """Ticks where the budgets are, on a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    tokens: dict[str, list[float]] = {}
    for row in report.rows:
        tokens.setdefault(row.condition.budget, []).append(row.cost.prompt_tokens)
    axes.xaxis.set_major_locator(FixedLocator([fmean(spent) for spent in tokens.values()]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plot_seconds(report: AnswersReport, path: str | Path) -> None:
    """A PNG: seconds per question by stage, a bar per condition."""
    figure, panels = make_panels(1, 1, (7.2, 1.3 + 0.3 * len(report.rows)))
    axes = panels[0][0]
    names = [row.condition.name for row in report.rows]
    left = [0.0] * len(names)
    for stage, colour in zip(STAGES, SERIES, strict=False):
        seconds = [row.cost.seconds[stage] for row in report.rows]
        axes.barh(names, seconds, left=left, color=colour, label=stage, height=0.65)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds per question", fontsize=8.5)
    axes.tick_params(labelsize=8)
    clean(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#00000014")
    legend_above(figure, axes)
    caption(figure, [f"{report.about}. Means over questions."])
    save(figure, path)
