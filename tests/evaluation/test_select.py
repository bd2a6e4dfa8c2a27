"""The counted arithmetic, and a small run of the benchmark."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from autogaze import PatchPyramid
from autogaze.cli.app import app
from autogaze.clips import frame_caps
from autogaze.evaluation.choosers import selection_flops
from autogaze.evaluation.flops import canvas_flops, difference_flops, learned_flops
from autogaze.evaluation.select import SelectCost, SelectReport, print_report
from autogaze.evaluation.timing import Timing
from autogaze.models.autogaze import AutoGazeConfig
from autogaze.selectors import registry


@pytest.mark.parametrize(("ratio", "gflop"), [(0.1, 37.3), (0.75, 87.4)])
def test_the_default_architecture_needs_what_the_documents_say(ratio, gflop):
    caps = frame_caps(ratio, 16, PatchPyramid().num_patches)
    assert learned_flops(AutoGazeConfig(), caps) / 1e9 == pytest.approx(gflop, abs=0.05)


def test_attention_grows_with_the_square_of_the_length():
    config = AutoGazeConfig()
    short, twice, thrice = (learned_flops(config, [10] * n) for n in (100, 200, 300))
    # Second differences leave only what is quadratic: 4 layers of 4 * 192 a pair of tokens.
    pairs = (206 * 100) ** 2
    assert thrice - 2 * twice + short == pytest.approx(4 * 4 * 192 * pairs, rel=1e-6)


def test_greedy_counts_every_frame_alike():
    assert canvas_flops(PatchPyramid(), 16) == 16 * canvas_flops(PatchPyramid(), 1)


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
    assert "left empty where a whole call's floor is below 2 ms" in " ".join(text.split())


def test_selection_is_counted_by_who_selects():
    pyramid = PatchPyramid((16, 32), 16)
    lengths = [[2, 1, 3], [1, 1, 1]]

    def flops(name):
        return selection_flops(registry.load(name, pyramid=pyramid), lengths)

    assert flops("greedy") == canvas_flops(pyramid, 6)
    assert flops("run-length") == flops("change") == difference_flops(pyramid, 6)
    assert flops("random") == flops("codec") == 0


def test_the_benchmark_reports_every_selector_asked_for():
    words = ["bench", "select", "--repeats", "1", "--json"]
    done = CliRunner().invoke(app, [*words, "--selector", "greedy", "--selector", "codec"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(row["selector"], row["batch"]) for row in report["select"]] == [
        ("greedy", 1),
        ("greedy", 16),
    ]
    for row in report["select"]:
        seconds = row["seconds"]
        assert 0 < seconds["fastest"] <= seconds["median"] <= seconds["slowest"]
        assert row["over_floor"] == pytest.approx(
            seconds["median"] * row["rate"] / row["flops"], rel=1e-9
        )
    assert report["codec"]["select"]["median"] > 0
    assert report["hardware"]


def test_unknown_selectors_and_precisions_are_refused():
    for words in (["--selector", "oracle"], ["--dtype", "float8"]):
        done = CliRunner().invoke(app, ["bench", "select", *words])
        assert done.exit_code == 2
        assert words[1] in done.stderr
