"""Figures as HTML: numbers of a job, and drawings that stay within their frames."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from autogaze.demo.figures import HEIGHT, WIDTH, budget_chart, numbers, numbers_table, peak, title
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.style import problem
from autogaze.demo.work import Files, Run, Settings
from autogaze.errors import AutoGazeError
from autogaze.evaluation.flops import Saving
from autogaze.pipeline import StageTimes
from autogaze.rendering.summary import FrameStats, Summary


@pytest.fixture
def job():
    frames = tuple(
        FrameStats(number, number / 10, (1, 2, 3, number), 265, number / 1000)
        for number in range(5)
    )
    summary = Summary(
        video="/somewhere/<b>clip</b>.mp4",
        selector="greedy",
        width=96,
        height=64,
        frames=5,
        seconds=0.5,
        tiles=(1, 1),
        side=224,
        scales=(32, 64, 112, 224),
        kept=(5, 10, 15, 10),
        total=5 * 265,
        loss_mean=0.0021,
        loss_max=0.004,
        corrupt=0,
        times=StageTimes(0.1, 0.05, 0.2, 0.15, 1.0),
        wall=1.5,
        files={"out": "/somewhere/clip.safetensors"},
    )
    saving = Saving("SigLIP2-base", 10**12, 10**11, 10**10)
    return Run(Settings(), summary, frames, (saving,), Files.within(Path("/somewhere"), "clip"))


def test_numbers(job):
    found = numbers(job)
    assert found["kept"] == {"32": 5, "64": 10, "112": 15, "224": 10}
    assert found["ms_per_frame"]["select"] == pytest.approx(40)
    assert found["flop"]["SigLIP2-base"]["saved"] == pytest.approx(0.89)
    assert "/somewhere" not in str(found)


def test_the_table_is_sound_and_says_the_same(job):
    rows = rows_of(job)
    assert rows["Tokens kept"] == "40 of 1,325 (3.0 %)"
    assert rows["By scale"] == "32 px 564 px 10112 px 15224 px 10"
    gazing, drawing = rows["Time per frame"].split(";")
    assert "select 40.0" in gazing
    assert "200.0" not in gazing
    assert "drawing" in drawing
    assert "200.0 ms" in drawing
    assert rows["SigLIP2-base"] == "110.0 GFLOP in place of 1.00 TFLOP: 89.0 % saved"


def rows_of(job):
    table = ElementTree.fromstring(numbers_table(job))
    return {row.find("th").text: "".join(row.find("td").itertext()) for row in table.iter("tr")}


def test_the_largest_error_is_that_of_the_chart(job):
    assert "largest of a frame 0.0040 (share" in rows_of(job)["Error"]
    tiled = replace(job, summary=replace(job.summary, tiles=(2, 1), loss_max=0.006))
    assert "largest of a frame 0.0040, of a tile 0.0060 (share" in rows_of(tiled)["Error"]
    for one in (job, tiled):
        assert ">0.0040<" in budget_chart(one)


@pytest.mark.parametrize(
    ("ratio", "loss", "told"),
    [
        (0.1, None, "at most 10 % of the patches"),
        (0.065, 0.02, "at most 6.5 % of the patches, until a frame's loss is 0.02"),
        (None, None, "to its own stopping threshold"),
    ],
)
def test_the_title_says_the_budget(job, ratio, loss, told):
    settings = replace(job.settings, ratio=ratio, loss=loss)
    assert title(replace(job, settings=settings)) == f"greedy, {told}"


def test_which_selectors_stop_by_loss():
    pool = SelectorPool()
    assert {name for name in pool.names if pool.stops_by_loss(name)} == {"greedy", "learned"}


def test_a_gaze_that_costs_more_than_dense_says_so(job):
    dear = Saving("SigLIP2-base", 10**10, 10**11, 10**10)
    table = numbers_table(Run(job.settings, job.summary, job.frames, (dear,), job.files))
    assert "more than dense" in table
    assert "-" not in re.search(r"SigLIP2-base</th><td>(.*?)</td>", table).group(1)


def test_the_chart_stays_within_its_frame(job):
    chart = ElementTree.fromstring(budget_chart(job))
    assert peak(job) == 10
    points = [
        tuple(map(float, point.split(",")))
        for shape in (*chart.iter("polygon"), *chart.iter("polyline"))
        for point in shape.get("points").split()
    ]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert min(y for _, y in points) == 0
    assert all(svg.get("aria-label") for svg in chart.iter("svg"))


def test_the_chart_of_one_frame_without_error(job):
    still = Run(job.settings, job.summary, job.frames[:1], job.savings, job.files)
    assert "nan" not in budget_chart(still)


def test_messages_are_no_html():
    assert "<b>x" not in problem("<b>x</b>").split("</b>", 1)[1]


def test_fields_that_may_stay_empty():
    from autogaze.demo.controls import (
        settings,
    )  # imports Gradio: not in every process that collects

    assert settings("greedy", seed=-1.0).seed == -1  # as of `autogaze gaze --seed -1`
    assert settings("greedy", loss=" ", fps="", start="1,5") == Settings(
        "greedy", start=1.5, seed=0
    )
    for values in ({"fps": "fast"}, {"seed": 1.5}, {"seed": 2.0**64}, {"max_tiles": float("nan")}):
        with pytest.raises(AutoGazeError, match=next(iter(values))):
            settings("greedy", **values)
