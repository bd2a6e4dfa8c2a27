"""`bench select`: time over floor, and a small run."""

import io
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from autogaze.cli.app import app
from autogaze.evaluation.select import SelectCost, SelectReport, print_report
from autogaze.evaluation.timing import Timing
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.search_kernel import search_kernel


def cost(flops: int, batch: int = 1, seconds: float = 5e-3) -> SelectCost:
    return SelectCost("one", 0.1, batch, Timing(seconds, seconds, seconds), flops, rate=1e11)


def test_time_over_floor_is_said_where_the_floor_says_something():
    assert cost(10**9).floor == pytest.approx(0.01)
    assert cost(10**9).over_floor == pytest.approx(0.5)
    assert cost(0).over_floor is None
    # 7 MFLOP a clip, as of run-length and change: a call is not held up by them.
    assert cost(7 * 10**6).over_floor is None
    assert cost(7 * 10**6, batch=16).over_floor is None
    # It is the whole call that counts: so many clips at once are something.
    assert cost(7 * 10**6, batch=100).over_floor == pytest.approx(5e-3 / 7e-5)


def test_the_table_leaves_the_cell_empty_and_says_why():
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(SelectReport("a machine", (cost(7 * 10**6), cost(0)), None, None), console)
    text = console.export_text()
    few, none = (line for line in text.splitlines() if "one" in line and "5.0" in line)
    assert few.split("│")[-3:-1] == ["       0.1 ", "              "]
    assert none.split("│")[-3:-1] == ["           ", "              "]
    assert re.search(r"\bempty\b.*\bbelow 2 ms", " ".join(text.split()))


def test_the_benchmark_reports_every_selector_asked_for(monkeypatch):
    monkeypatch.setattr(
        "autogaze.evaluation.select.matrix_rate", lambda *_: 1e10
    )  # a floor of 12 ms
    monkeypatch.setattr("autogaze.evaluation.select.OTHER_CASES", ((0.1, 1), (0.1, 2)))
    words = ["bench", "select", "--repeats", "1", "--json"]
    done = CliRunner().invoke(app, [*words, "--selector", "greedy", "--selector", "codec"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(row["selector"], row["batch"]) for row in report["select"]] == [
        ("greedy", 1),
        ("greedy", 2),
    ]
    for row in report["select"]:
        seconds = row["seconds"]
        assert 0 < seconds["fastest"] <= seconds["median"] <= seconds["slowest"]
        assert row["over_floor"] == pytest.approx(
            seconds["median"] * row["rate"] / row["flops"], rel=1e-9
        )
    assert report["codec"]["select"]["median"] > 0
    assert report["hardware"]
    assert report["search"]["name"] == search_kernel(PatchPyramid()).name
