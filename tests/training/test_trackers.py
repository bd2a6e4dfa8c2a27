"""Trackers start without a network, get metrics and pictures, and cost no training when they fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autogaze.errors import TrainingError
from autogaze.training.logging import TRACKERS, Tracker, published_metrics
from tests.training.tiny import tiny_trainer

ROOT = Path(__file__).resolve().parents[2]


class Notebook:
    """A tracker as Accelerate knows them; `fails` names what it cannot do."""

    name = "notebook"

    def __init__(self, fails=()):
        self.pages, self.fails = [], fails

    def note(self, *page):
        if page[0] in self.fails:
            raise ConnectionError(f"no network for {page[0]}")
        self.pages.append(page)

    def log(self, values, step=None, **_):
        self.note("log", step, values)

    def log_images(self, values, step=None, **_):
        self.note("picture", step, {name: [p.shape for p in v] for name, v in values.items()})

    def finish(self):
        self.note("finish")


def trained_with(notebook, folder):
    """A training of one step that a tracker is told of."""
    trainer = tiny_trainer("ntp", folder, max_steps=1, val_nsteps=1)
    trainer.accelerator.trackers = [notebook]
    trainer.metrics_log.tracker.active = True
    trainer.fit()
    return trainer


@pytest.mark.parametrize("kind", ["ntp", "grpo"])
def test_a_tracker_gets_the_published_names_too(kind, tmp_path):
    notebook = Notebook()
    trainer = tiny_trainer(kind, tmp_path, max_steps=2, val_nsteps=1)
    trainer.accelerator.trackers = [notebook]
    trainer.metrics_log.tracker.active = True
    trainer.fit()
    pages = [page[2] for page in notebook.pages if page[0] == "log"]
    training = [values for values in pages if "lr" in values]
    assert [values["train/train_step"] for values in training] == [0, 1]
    for values in training:
        whole = values[f"train/{kind}_loss"] + values["train/task_loss_prediction_loss"]
        assert whole == pytest.approx(values["loss"])
        assert values["train/task_loss_prediction_loss"] == values["prediction_loss"] > 0
        assert values["train/lr"] == values["lr"]
        assert 0 < values["train/avg_gazing_ratio_per_frame"] <= 1
        assert ("train/temperature" in values) == (kind == "grpo")
        if kind == "grpo":
            assert values["train/reconstruction_loss"] == -values["reward"]
    validations = [values for values in pages if "val/loss" in values]
    assert [values["val/val_step"] for values in validations] == [0, 1, 2]
    for values in validations:
        assert values["val/reconstruction_loss"] == values["val/loss"]
        assert values["val/avg_gazing_ratio_per_frame"] == values["val/gazing_ratio"]


def test_published_names_are_those_of_what_was_measured():
    assert published_metrics(3, {"clips_per_second": 2.0}, "ntp", 2) == {}
    task = {"task_loss": 0.5, "reward": -1.0}
    found = published_metrics(3, task, "dummy", 0)
    assert found == {"train/reconstruction_loss": 0.5, "train/train_step": 2}
    assert published_metrics(3, {"val/loss": 1.0}, "grpo", 2)["val/val_step"] == 2


def test_a_tracker_gets_metrics_and_pictures(tmp_path):
    notebook = Notebook()
    trained_with(notebook, tmp_path)
    logged = {name for page in notebook.pages if page[0] == "log" for name in page[2]}
    assert {"loss", "clips_per_second", "val/loss", "val/shuffled_loss"} <= logged
    pictures = [page for page in notebook.pages if page[0] == "picture"]
    assert [page[1] for page in pictures] == [0, 1]
    for page in pictures:
        for shapes in page[2].values():
            assert [shape[-1] for shape in shapes] == [3]
    assert notebook.pages[-1] == ("finish",)


@pytest.mark.parametrize("fails", ["log", "picture", "finish"])
def test_a_tracker_that_fails_is_given_up(fails, tmp_path, caplog):
    notebook = Notebook(fails=(fails,))
    trained_with(notebook, tmp_path)
    assert caplog.text.count(f"no network for {fails}") == 1
    assert (tmp_path / "tiny" / "checkpoint_latest_gaze").is_dir()


def test_a_tracker_that_does_not_start_is_an_error(tmp_path):
    class Offline:
        def init_trackers(self, *_):
            raise ConnectionError("no route to host")

    with pytest.raises(
        TrainingError, match=r"tracker=wandb\b.*no route to host.*WANDB_MODE=offline"
    ):
        Tracker(tmp_path, Offline(), "wandb", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "none"])
def test_real_trackers_start_without_a_network(name, tmp_path):
    pytest.importorskip(name)
    nowhere = "http://127.0.0.1:9"
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }
    options = {"kinds": ["ntp"], "max_steps": 1, "val_nsteps": 1, "tracker": name}
    command = [sys.executable, "-m", "tests.training.run", str(tmp_path), json.dumps(options)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is given up" not in done.stderr
    folder = tmp_path / "ntp" / "tiny"
    places = {
        "wandb": folder.glob("wandb/offline-run-*/*.wandb"),
        "tensorboard": folder.glob("autogaze/events.out.tfevents.*"),
        "trackio": (tmp_path / "trackio").glob("autogaze.db"),
    }
    assert list(places[name])


def test_tensorboard_shows_the_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = tiny_trainer("ntp", tmp_path, max_steps=1, val_nsteps=1, tracker="tensorboard")
    trainer.fit()
    events = EventAccumulator(str(trainer.folder / "autogaze"))
    events.Reload()
    assert {"loss", "val/loss", "val/shuffled_loss"} <= set(events.Tags()["scalars"])
    (name,) = events.Tags()["images"]
    shown = events.Images(name)[0]
    written = next((trainer.folder / "pictures").glob("step-00000000-*.png"))
    from PIL import Image

    assert np.asarray(Image.open(written)).shape == (shown.height, shown.width, 3)
