"""The counted arithmetic, and a small run of the benchmark."""

import json

import pytest
from typer.testing import CliRunner

from autogaze import PatchPyramid
from autogaze.benchmarks.arithmetic import canvas_flops, learned_flops
from autogaze.cli import app
from autogaze.models.autogaze import AutoGazeConfig
from autogaze.selectors.base import frame_caps


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
