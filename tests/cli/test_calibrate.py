"""`autogaze calibrate`, as it is called."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import autogaze
from autogaze.cli.app import app
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.training.checkpoints import save_gaze
from tests.clips import make_video
from tests.decoders import decoded, needs_torchcodec
from tests.models.autogaze.tiny import tiny_model
from tests.tasks.material import TINY, tiny_mae

__all__ = ["decoded"]

HEAD = "gazing_model.gaze_decoder.task_loss_prediction_head.weight"


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(decode_positions="sequential")
    save_gaze(model, Path("weights"))
    options = {"name": "procedural", "num_clips": 6, "clip_len": 2}
    Path("clips.yaml").write_text(json.dumps(options))

    def run(*words):
        result = CliRunner().invoke(app, ["calibrate", *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


GOOD = ("weights", "--dataset", "clips.yaml", "--out", "mended")


@pytest.mark.parametrize("metric", ["canvas", "mae"])
def test_what_is_written_can_be_loaded(call, metric):
    save_mae("32+64")
    # What is found with random weights, whatever is asked for.
    about = 0.2 if metric == "canvas" else 1.2
    losses = ("--loss", about, "--loss", 1.05 * about, "--default-loss", 0.15)
    losses += ("--inhibition-of-return", 0.1)
    result = call(*GOOD, "--metric", metric, "--clips", 3, *losses, "--half", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["thresholds"] == [about, 1.05 * about]
    assert len(report["excess"]) == 5
    old, new = (autogaze.load(name).model.state_dict() for name in ("weights", "mended"))
    changed = [n for n, value in old.items() if not torch.equal(value.half(), new[n].half())]
    assert changed == [HEAD]
    stored = load_file("mended/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert autogaze.load("mended").default_loss == 0.15
    assert autogaze.load("mended").model.config.inhibition_of_return == 0.1
    assert not list(Path().glob(".*"))
    result = call(*GOOD)
    assert result.exit_code == 2
    assert "mended" in result.stderr


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("greedy", *GOOD[1:]), "greedy"),
        ((*GOOD, "--loss", -0.1), "-0.1"),
        ((*GOOD, "--default-loss", -1), "-1"),
        ((*GOOD, "--inhibition-of-return", 0), "inhibition_of_return"),
        ((*GOOD[:2], "none.yaml", *GOOD[3:]), "none.yaml"),
        (("nowhere", *GOOD[1:]), "nowhere"),
        ((*GOOD, "--metric", "mae"), "16+64"),
        ((*GOOD, "--judge", "mae"), "16+64"),  # the former name
        ((*GOOD[:4], "no/where"), "no/where"),
    ],
)
def test_what_cannot_be_calibrated(call, words, value):
    save_mae("16+64")
    result = call(*words)
    assert result.exit_code == 2
    assert value in result.stderr
    assert not Path("mended").exists()


def save_mae(scales):
    mae = tiny_mae(config=replace(TINY, scales=scales, image_size=64, patch_size=16))
    VideoMAETask(mae, FrameLosses.parse("l1", 1)).save_pretrained("mae")


def test_precision_is_written_down(call):
    result = call(
        *GOOD, "--clips", 2, "--loss", 0.2, "--loss", 0.21, "--dtype", "bfloat16", "--json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["dtype"] == "bfloat16"
    written = json.loads(Path("mended/calibration.json").read_text())
    assert {name: written[name] for name in ("dtype", "thresholds", "excess", "scale")} == {
        name: report[name] for name in ("dtype", "thresholds", "excess", "scale")
    }
    assert (written["metric"], written["split"], written["clips"]) == ("canvas", "train", 2)
    assert autogaze.load("mended").model.dtype == torch.float32


def test_a_decoder_needs_videos(call):
    result = call(*GOOD, "--decoder", "pyav")
    assert result.exit_code == 2
    assert "clips.yaml" in result.stderr


@needs_torchcodec
def test_the_decoder_of_a_mixture(call, decoded):
    Path("set/train").mkdir(parents=True)
    make_video(Path("set/train/one.mp4"), 6, 64, 64)
    videos = {"name": "video_folder", "root": "set", "decoder": "opencv"}
    parts = {"videos": videos, "drawn": {"name": "procedural", "num_clips": 1}}
    mixture = {"name": "mixture", "clip_len": 2, "parts": parts}
    Path("clips.yaml").write_text(json.dumps(mixture))
    result = call(*GOOD, "--clips", 8, "--loss", 0.2, "--decoder", "torchcodec")
    assert result.exit_code == 0, result.output
    assert set(decoded) == {0, 1}
