"""What `bench quality` says and draws of known losses."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from autogaze.evaluation.bootstrap import Estimate
from autogaze.evaluation.quality.measure import Measurements, Row
from autogaze.evaluation.quality.report import Point, Setting, make_report
from autogaze.evaluation.quality.selectors import Variant
from autogaze.evaluation.quality.tables import (
    figure,
    make_tables,
    mark,
    print_report,
    share,
    to_markdown,
)
from autogaze.evaluation.quality.thresholds import (
    CalibrationBin,
    ThresholdPoint,
    ThresholdReport,
)
from tests.evaluation.quality.tiny import some_clips

OWN = ("ours", "greedy", "random", "centre")
ROWS = (
    *(Row(name, number, Variant.OWN) for number, name in enumerate(OWN)),
    *(Row(name, number, Variant.SHUFFLED) for number, name in enumerate(OWN[:2])),
    Row("greedy", 1, Variant.PRIOR),
)
NAMES = (*OWN, "ours (shuffled)", "greedy (shuffled)", "greedy (prior)")
RATIOS = (0.05, 0.1, 0.2, 0.4)
FACTORS = {"ours": 0.5, "ours (shuffled)": 0.8, "greedy (prior)": 0.6}
"""Of random's loss, which is 0.02 / share."""


def known(metrics=("canvas", "features")) -> Measurements:
    """Losses that halve when the share doubles, on clips of very different difficulty."""
    clips = some_clips({"static": list("abcd"), "moving": list("pqrs")})
    difficulty = np.array([1, 2, 3, 4, 5, 6, 7, 8]) / 4.5
    factors = np.array([FACTORS.get(name, 1.0) for name in NAMES])
    losses = factors[:, None, None] * (0.02 / np.array(RATIOS))[:, None] * difficulty
    shares = np.broadcast_to(np.array(RATIOS)[:, None], losses.shape)
    return Measurements(
        tuple(clips), ROWS, RATIOS, metrics, ("pixels", "features")[: len(metrics)],
        np.stack([losses] * len(metrics)), shares.copy(),
    )  # fmt: skip


def setting(reference: str = "ours") -> Setting:
    return Setting("a machine", reference, 0, 1, "cpu float32", (("ours", "folder"),), None)


@pytest.fixture(scope="module")
def report():
    points = tuple(
        ThresholdPoint("ours", loss, group, 0.1, loss, Estimate(1.2 * loss, loss, 1.4 * loss),
                  Estimate(0.2, 0.0, 0.4), 0.25, 0.0)
        for loss in (0.1, 0.2) for group in ("all", "static", "moving")
    )  # fmt: skip
    bins = tuple(
        CalibrationBin("ours", kind, 30, x, 1.1 * x)
        for kind in ("static", "moving")
        for x in (0.1, 0.2)
    )
    return make_report(known(), setting(), ThresholdReport("canvas", "pixels", points, bins))


def test_differences_are_paired(report):
    curves = {curve.row: curve for curve in report.of("canvas", "all")}
    ours, other = curves["ours"].points[1], curves["greedy"].points[1]
    assert ours.loss.mean == pytest.approx(0.1)
    assert ours.difference == Estimate(0, 0, 0)
    assert other.difference.mean == pytest.approx(0.1)
    # Unsure how hard videos are, but never that ours is better.
    assert other.loss.low < 0.2 - 0.03
    assert other.difference.low > 0
    assert mark(other) == "-"
    assert mark(ours) == " "


def test_half_the_loss_needs_half_the_patches(report):
    curves = {curve.row: curve for curve in report.of("canvas", "all")}
    needed = curves["ours"].needed
    assert needed.mean == pytest.approx(0.1)
    assert (needed.low, needed.high) == pytest.approx((0.1, 0.1))  # also pair by pair
    assert curves["random"].needed.mean == pytest.approx(0.2)
    assert curves["ours (shuffled)"].needed.mean == pytest.approx(0.16)
    assert curves["greedy (prior)"].needed.mean == pytest.approx(0.12)


def test_without_random_around_a_fifth_no_share_is_needed():
    measured = known()
    few = Measurements(
        measured.clips, measured.rows, RATIOS[:2], measured.metrics, measured.units,
        measured.losses[:, :, :2], measured.shares[:, :2],
    )  # fmt: skip
    assert all(curve.needed is None for curve in make_report(few, setting()).curves)


def test_figures_say_how_sure_they_are():
    assert figure(Estimate(0.0531, 0.0510, 0.0552)) == "0.0531(21)"
    assert figure(Estimate(0.00312, 0.0030, 0.0033)) == "0.00312(15)"
    assert figure(Estimate(0.531, 0.5, 0.55)) == "0.531(25)"
    assert figure(Estimate(0.25, None, None)) == "0.250"
    assert figure(Estimate(0.0, 0.0, 0.0)) == "0.000(1)"


def test_marks_need_an_interval_beside_zero():
    for low, high, expected in ((-2, -1, "+"), (1, 2, "-"), (-1, 1, " "), (None, None, " ")):
        point = Point(0.1, 0.1, Estimate(1, 1, 1), Estimate(0, low, high))
        assert mark(point) == expected


def test_shares_beyond_the_budgets_are_bounds():
    assert share(0.0, 0.0075, 0.5) == "<0.75 %"
    assert share(float("inf"), 0.0075, 0.5) == ">50 %"
    assert share(0.123, 0.0075, 0.5) == "12 %"


def test_the_tables_hold_all_metrics_and_rows(report):
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(report, console)
    text = " ".join(console.export_text().split())  # titles are broken into lines
    for words in (*NAMES, "metric canvas", "metric features", "0.100(", "10 % (10 % .. 10 %)"):
        assert words in text
    assert "static clips" in text  # among the shares needed
    assert "metric canvas, static clips" not in text
    assert re.search(r"\b8 clips: 4 static .*\b4 sources.*\b4 moving .*\b4 sources", text)
    assert "+20 % (+0..+40)" in text
    print_report(report, console, by_kind=True)
    assert "metric canvas, static clips" in console.export_text()


def without(report, serving: Variant):
    """The same run, had these rows not been compared."""
    measured = report.measured
    kept = [number for number, row in enumerate(measured.rows) if row.variant is not serving]
    rows = tuple(measured.rows[number] for number in kept)
    losses, shares = measured.losses[:, kept], measured.shares[kept]
    return make_report(replace(measured, rows=rows, losses=losses, shares=shares), setting())


def test_lines_part_the_controls_the_shuffled_rows_and_the_prior(report):
    tables = make_tables(report, by_kind=True)
    assert [row[0] for row in tables[0].rows] == list(NAMES)
    assert {table.rules for table in tables[:-1]} == {(2, 4, 6)}  # the last one: thresholds
    assert make_tables(without(report, Variant.PRIOR), by_kind=False)[0].rules == (2, 4)


def test_a_prior_is_explained_where_there_is_one(report):
    assert "Prior: content-blind" in " ".join(report.notes)
    assert "Prior:" not in " ".join(without(report, Variant.PRIOR).notes)


def test_markdown_tables_are_as_wide_as_their_heads(report):
    lines = to_markdown(report).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 40
    for number, line in enumerate(lines):
        if line.startswith("| ---"):
            wide = line.count("|")
            assert lines[number - 1].count("|") == wide
            assert lines[number + 1].count("|") == wide


def test_json_has_the_loss_of_every_clip(report):
    values = json.loads(json.dumps(report.to_json()))
    losses = np.array(values["losses"])
    assert losses.shape == (2, len(NAMES), len(RATIOS), 8)
    assert losses == pytest.approx(report.measured.losses)
    assert values["rows"] == list(NAMES)
    assert [clip["source"] for clip in values["clips"]] == list("abcdpqrs")
    assert values["thresholds"]["points"][0]["threshold"] == 0.1


def test_every_way_of_serving_has_lines_of_its_own(report, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from autogaze.evaluation.quality import plots

    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.plot_curves(report, tmp_path / "any.png")
    plots.plot_curves(without(report, Variant.PRIOR), tmp_path / "any.png")
    full, fewer = (figure.axes[0] for figure in drawn)
    assert {text.get_text() for text in full.texts} == set(NAMES)
    assert {text.get_text() for text in fewer.texts} == set(NAMES[:-1])
    # The last rows are drawn first.
    prior, greedy, *others = (full.lines[number] for number in (0, 5, 1, 2))
    assert prior.get_ydata() == pytest.approx(0.6 * greedy.get_ydata())
    assert prior.get_color() == greedy.get_color()
    assert not greedy.is_dashed()
    assert all(line.is_dashed() for line in (prior, *others))


def test_the_plots_are_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from autogaze.evaluation.quality.plots import plot_curves, plot_thresholds

    plot_curves(report, tmp_path / "curves.png")
    plot_thresholds(report, tmp_path / "thresholds.png")
    one_kind = Measurements(
        report.measured.clips[:4], report.measured.rows, RATIOS, ("canvas",), ("pixels",),
        report.measured.losses[:1, :, :, :4], report.measured.shares[..., :4],
    )  # fmt: skip
    plot_curves(make_report(one_kind, setting()), tmp_path / "one.png")
    sizes = []
    for name in ("curves", "thresholds", "one"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][1] > 1.5 * sizes[2][1]  # two metrics, one metric
    assert min(sizes[1]) > 400
