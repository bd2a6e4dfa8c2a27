"""What checkpoints leave behind, also on a disk that is full."""

import logging

import pytest
import torch

import autogaze
from autogaze.errors import TrainingError
from autogaze.models.autogaze import AutoGaze, AutoGazeImageProcessor
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.training.checkpoints import Checkpoints
from autogaze.training.journal import read_metrics
from tests.disks import small_disk
from tests.training.tiny import assert_same, tiny_trainer, weights_after


def test_the_latest_selector_is_a_folder_for_from_pretrained(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path)
    trainer.fit()
    folder = tmp_path / "tiny" / "checkpoint_latest_gaze"
    model = AutoGaze.from_pretrained(folder)
    assert_same(trainer.learner.model.state_dict(), model.state_dict())
    assert model.config.decode_positions == "sequential"
    assert AutoGazeImageProcessor.from_pretrained(folder).size == {"shortest_edge": 64}
    gaze = autogaze.load(folder).select(torch.rand(1, 2, 3, 64, 64), ratio=0.2)
    assert gaze.lengths.tolist() == [[4, 4]]


def test_the_latest_judge_can_be_loaded(tmp_path):
    trainer = tiny_trainer("judge", tmp_path)
    trainer.fit()
    judge = VideoMAEReconstruction.from_checkpoint(tmp_path / "tiny" / "checkpoint_latest_task")
    assert_same(dict(trainer.learner.task.mae.state_dict()), dict(judge.mae.state_dict()))


def test_weights_can_be_started_from(tmp_path):
    for kind, option in (("ntp", "gaze_weights"), ("judge", "task_weights")):
        tiny_trainer(kind, tmp_path / kind, max_steps=1).fit()
        part = "task" if kind == "judge" else "gaze"
        source = tmp_path / kind / "tiny" / f"checkpoint_latest_{part}"
        trainer = tiny_trainer(kind, tmp_path / "next", seed=5, **{option: str(source)})
        module = trainer.learner.task.mae if kind == "judge" else trainer.learner.model
        assert_same(weights_after(tmp_path / kind, kind), dict(module.state_dict()))


def test_the_newest_two_are_kept(tmp_path):
    tiny_trainer("ntp", tmp_path, max_steps=5, save_nsteps=1).fit()
    kept = Checkpoints(tmp_path / "tiny").all()
    assert [path.name for path in kept] == ["step-00000004", "step-00000005"]
    for path in kept:
        assert {part.name for part in path.iterdir()} == {"gaze", "optimizer.pt", "state.json"}


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path, monkeypatch, caplog):
    save, saved = Checkpoints.save, []

    def on_a_disk_that_is_full_for_a_while(self, state, *parts):
        saved.append(state.step)
        if state.step == 2:
            with small_disk(kilobytes=16):
                return save(self, state, *parts)
        return save(self, state, *parts)

    monkeypatch.setattr(Checkpoints, "save", on_a_disk_that_is_full_for_a_while)
    with caplog.at_level(logging.ERROR):
        tiny_trainer("ntp", tmp_path, max_steps=3, save_nsteps=1).fit()
    assert saved == [1, 2, 3]
    assert "step 2 could not be saved" in caplog.text
    names = [path.name for path in Checkpoints(tmp_path / "tiny").all()]
    assert names == ["step-00000001", "step-00000003"]
    assert not list((tmp_path / "tiny" / "checkpoints").glob(".*"))
    AutoGaze.from_pretrained(tmp_path / "tiny" / "checkpoint_latest_gaze")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("torch")])
def test_a_disk_that_stays_full_ends_training_with_an_error(error, tmp_path, monkeypatch):
    tiny_trainer("ntp", tmp_path, max_steps=1).fit()
    good = weights_after(tmp_path, "ntp")

    def full(*_):
        raise error

    monkeypatch.setattr("autogaze.training.checkpoints.torch.save", full)
    with pytest.raises(TrainingError, match="could not be saved"):
        tiny_trainer("ntp", tmp_path, max_steps=3, resume=True).fit()
    assert_same(good, weights_after(tmp_path, "ntp"))
    assert [path.name for path in Checkpoints(tmp_path / "tiny").all()] == ["step-00000001"]


def test_metrics_and_curves_are_always_written(tmp_path):
    tiny_trainer("grpo", tmp_path, val_nsteps=2, val_pictures=2).fit()
    folder = tmp_path / "tiny"
    entries = read_metrics(folder / "metrics.jsonl")
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    for name in ("reward", "lr", "temperature", "clips_per_second", "compute_share"):
        assert all(name in entry for entry in steps), name
    validated = [entry for entry in entries if "val_task_loss" in entry]
    assert [entry["step"] for entry in validated] == [0, 2, 3]
    assert all({"val_gazing_ratio", "val_algorithm_loss"} <= entry.keys() for entry in validated)
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    assert pictures == [f"step-{step:08d}-clips-from-0000.png" for step in (0, 2, 3)]
    pytest.importorskip("matplotlib")
    assert (folder / "curves.png").is_file()


def test_a_tracker_gets_metrics_and_pictures(tmp_path):
    from accelerate.tracking import GeneralTracker

    got = []

    class Notebook(GeneralTracker):
        name, requires_logging_directory, main_process_only = "notebook", False, True

        def __init__(self):
            super().__init__()

        @property
        def tracker(self):
            return got

        def store_init_configuration(self, values):
            got.append(("config", values))

        def log(self, values, step=None, **_):
            got.append(("log", step, values))

        def log_images(self, values, step=None, **_):
            got.append(
                ("picture", step, {name: [p.shape for p in v] for name, v in values.items()})
            )

    trainer = tiny_trainer("ntp", tmp_path, max_steps=1, val_nsteps=1)
    trainer.accelerator.trackers = [Notebook()]
    trainer.journal.tracks = True
    trainer.fit()
    kinds = [entry[0] for entry in got]
    assert kinds.count("picture") == 2
    assert any(entry[0] == "log" and "loss" in entry[2] for entry in got)


def test_only_validating_trains_and_saves_nothing(tmp_path):
    trainer = tiny_trainer("ntp", tmp_path, val_only=True, val_nsteps=0)
    before = {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}
    trainer.fit()
    assert_same(before, trainer.learner.model.state_dict())
    folder = tmp_path / "tiny"
    (entry,) = read_metrics(folder / "metrics.jsonl")
    assert {"val_task_loss", "val_gazing_ratio"} <= entry.keys()
    assert not (folder / "checkpoints").exists()
