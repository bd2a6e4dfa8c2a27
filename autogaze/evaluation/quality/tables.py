"""The tables that `autogaze bench quality` prints, and writes as Markdown."""

import math

from rich.console import Console

from autogaze.evaluation.bootstrap import Estimate
from autogaze.evaluation.quality.report import BASELINE, BASELINE_SHARE, Curve, Point, QualityReport
from autogaze.evaluation.quality.selectors import Variant
from autogaze.evaluation.quality.thresholds import ThresholdReport
from autogaze.evaluation.selectors import CONTROLS
from autogaze.evaluation.tables import TextTable, changes, print_tables


def print_report(report: QualityReport, console: Console, *, by_kind: bool = False) -> None:
    """The tables of all clips, and of every kind if wanted, and how to read them."""
    print_tables(console, make_tables(report, by_kind=by_kind), report.notes)


def to_markdown(report: QualityReport) -> str:
    """All tables, every kind's too, and the notes."""
    parts = [table.markdown() for table in make_tables(report, by_kind=True)]
    parts.append("\n".join(f"- {note}" for note in report.notes) + "\n")
    return "\n".join(parts)


def make_tables(report: QualityReport, *, by_kind: bool) -> list[TextTable]:
    """The shares taken; losses and shares needed, metric by metric; early stopping."""
    measured = report.measured
    budgets = ("selector", *(f"{100 * ratio:g} %" for ratio in measured.ratios))
    rules = _rules(report)
    shares = tuple(
        (curve.row, *(f"{100 * point.share:.1f} %" for point in curve.points))
        for curve in report.of(measured.metrics[0], report.groups[0])
    )
    tables = [TextTable("Share of patches really taken, by cap", budgets, shares, rules)]
    for metric in measured.metrics:
        for group in report.groups if by_kind else report.groups[:1]:
            losses = tuple(
                (curve.row, *(figure(point.loss) + mark(point) for point in curve.points))
                for curve in report.of(metric, group)
            )
            title = f"Loss by cap on the share of patches: metric {metric}, {_clips(report, group)}"
            tables.append(TextTable(title, budgets, losses, rules))
        columns = [[_needed(curve) for curve in report.of(metric, g)] for g in report.groups]
        tables.append(
            TextTable(
                f"Share of patches needed for the loss of {BASELINE} at {100 * BASELINE_SHARE:g} %: "
                f"metric {metric}",
                ("selector", *(_clips(report, group) for group in report.groups)),
                tuple(zip([row.name for row in measured.rows], *columns, strict=True)),
                rules,
            )
        )
    if report.thresholds is not None:
        tables.append(_thresholds(report.thresholds))
    return tables


def figure(estimate: Estimate) -> str:
    """A loss, three digits of it, with half its interval's width in units of the last one.

    0.0531 with an interval from 0.0510 to 0.0552 is 0.0531(21).
    """
    places = 3 if estimate.mean == 0 else max(2, 2 - math.floor(math.log10(abs(estimate.mean))))
    text = f"{estimate.mean:.{places}f}"
    if estimate.low is None or estimate.high is None:
        return text
    half = (estimate.high - estimate.low) / 2 * 10**places
    return f"{text}({max(1, round(half))})"


def share(value: float, smallest: float, largest: float) -> str:
    """A share needed, between the smallest and the largest that were measured."""
    if value == 0:
        return f"<{100 * smallest:.2g} %"
    if value == float("inf"):
        return f">{100 * largest:.2g} %"
    return f"{100 * value:.2g} %"


def mark(point: Point) -> str:
    """Clearly better (+) or worse (-) than the reference, or neither."""
    low, high = point.difference.low, point.difference.high
    if low is None or high is None or low <= 0 <= high:
        return " "
    return "+" if high < 0 else "-"


def _needed(curve: Curve) -> str:
    if curve.needed is None:
        return ""
    ends = curve.points[0].share, curve.points[-1].share

    def show(needed: float) -> str:
        return share(needed, *ends)

    return show(curve.needed.mean) + curve.needed.brackets(show, " .. ")


def _thresholds(report: ThresholdReport) -> TextTable:
    rows = [
        (
            point.name,
            f"{point.threshold:g}",
            point.group,
            f"{100 * point.share:.1f} %",
            f"{point.predicted:.4f}",
            figure(point.actual),
            f"{100 * point.excess.mean:+.0f} %"
            + point.excess.brackets(lambda end: f"{100 * end:+.0f}"),
            f"{100 * point.at_first:.0f} %",
            f"{100 * point.at_last:.0f} %",
        )
        for point in report.points
    ]
    header = (
        *("selector", "threshold", "clips", "share", "predicted", "actual"),
        *("actual / threshold - 1", "frames of 1 patch", "of all patches"),
    )
    title = f"Predicted and actual loss where frames stopped: metric {report.metric}"
    return TextTable(title, header, rows, changes([point.name for point in report.points]))


def _clips(report: QualityReport, group: str) -> str:
    if len(report.groups) == 1:  # of one kind
        group = report.measured.clips[0].kind
    return f"{group} clips"


def _rules(report: QualityReport) -> tuple[int, ...]:
    """Before the controls, before the shuffled rows, and before priors."""
    variants = [row.variant for row in report.measured.rows]
    controls = variants.count(Variant.OWN) - len(CONTROLS)  # the last ones of the own rows
    return (controls, *changes(variants))
