"""`autogaze info` and `autogaze selectors`."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autogaze import gaze_video
from autogaze.gaze import Gaze
from tests.cli.commands import fails, run


def test_selectors() -> None:
    result = run("selectors")
    assert result.exit_code == 0
    for name in ("greedy", "run-length", "change", "codec", "random", "centre", "default"):
        assert name in result.stdout
    assert "greedy" in json.loads(run("selectors", "--json").stdout)


def test_info(video: Path, folder: Path) -> None:
    run("gaze", video, "--ratio", 0.1, "--out", folder)
    facts = json.loads(run("info", folder / "square.safetensors", "--json").stdout)
    assert (facts["kind"], facts["clips"], facts["frames"]) == ("gaze", 1, 20)
    assert facts["judge"] == "canvas"
    assert 0 < facts["ratio"] <= 0.1
    words = run("info", folder / "square.safetensors").stdout
    assert f"{100 * facts['ratio']:.2f} %" in words
    facts = json.loads(run("info", video, "--json").stdout)
    assert (facts["kind"], facts["size"], facts["frames"], facts["codec"]) == (
        ("video", "96 x 64", 20, "h264")
    )
    assert "96 x 64" in run("info", video).stdout
    assert "results/none" in fails("info", folder / "none")
    assert "x.safetensors" in fails("info", rename(video, "x.safetensors"))


def test_facts_of_a_gaze_are_those_that_it_loads_with(video: Path, folder: Path) -> None:
    path = folder / "square.safetensors"
    gaze_video(video, ratio=0.1, tiles="2x1", start=0.5).save(path)
    facts, gaze = json.loads(run("info", path, "--json").stdout), Gaze.load(path)
    levels = gaze.pyramid.levels[gaze.ids]
    assert facts["pyramid"] == str(gaze.pyramid)
    assert facts["patches"] == gaze.num_patches
    assert facts["ratio"] == pytest.approx(gaze.ratio)
    assert list(facts["by_scale"].values()) == levels.bincount(minlength=4).tolist()
    assert facts["loss_mean"] == pytest.approx(float(gaze.losses.mean()))
    assert facts["loss_max"] == pytest.approx(float(gaze.losses.max()))
    assert facts["metric"] == facts["judge"] == gaze.metric
    assert facts["video"] == str(video)
    assert facts["from_second"] == gaze.source.timestamps[0]
    assert facts["tiles"] == "2 x 1 of 224 px"


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"format": "other"},
        {"pyramid": "none"},
        {"pyramid": '{"scales": [32], "patch_size": 16, "crop": false}'},
    ],
)
def test_files_that_are_no_gazes(change: dict[str, str], video: Path, tmp_path: Path) -> None:
    path = tmp_path / "square.safetensors"
    gaze_video(video, ratio=0.1).save(path)
    with safe_open(path, "pt") as file:
        entries = file.metadata()
    save_file(load_file(path), path, entries | change)
    fails("info", path)


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))
