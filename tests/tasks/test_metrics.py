"""Metrics by name."""

import pytest

from autogaze.errors import CheckpointError, TrainingError
from autogaze.tasks import load_metric
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.video_mae import VideoMAETask
from tests.tasks.material import tiny_mae


def test_the_canvas():
    task = load_metric("canvas", scales="32+64")
    assert isinstance(task, CanvasReconstruction)
    assert task.pyramid.scales == (32, 64)
    with pytest.raises(TrainingError, match="l1"):
        load_metric("canvas", loss_type="l1")


def test_the_metric_that_left_the_package(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"'learned'.*'canvas'"):
        load_metric("learned")
    monkeypatch.chdir(tmp_path)  # a folder of that name is meant where there is one
    VideoMAETask(tiny_mae(), FrameLosses.parse("l1", 1)).save_pretrained("learned")
    assert isinstance(load_metric("learned"), VideoMAETask)
