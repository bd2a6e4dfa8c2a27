"""What a training writes down, and says."""

import io
import json
import logging
import re
import time

import pytest

from autogaze.geometry import PatchPyramid
from autogaze.training.checkpoints import Checkpoints
from autogaze.training.factory import build_trainer
from autogaze.training.logging import draw_curves, panels, read_metrics
from autogaze.training.mixture import read_dataset
from autogaze.training.reporting import WIDTH, Progress, Stopwatch, count_labels
from tests.disks import small_disk
from tests.training.tiny import RECIPES, tiny_config, tiny_trainer

SPEED = ("clips_per_second", "forward_backward_share", "compute_share", "waiting_share")


def metrics_of(folder):
    return read_metrics(folder / "tiny" / "metrics.jsonl")


@pytest.mark.parametrize("kind", RECIPES)
def test_every_stage_reports_clips_per_second_and_shares_of_the_time(kind, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        tiny_trainer(kind, tmp_path, max_steps=2).fit()
    entries = metrics_of(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2]
    lines = [line for line in caplog.messages if line.startswith("step ")]
    for line, entry, number in zip(lines, entries, (1, 2), strict=True):
        assert line.startswith(f"step {number}/2  ")
        assert re.search(r"left \d+:\d\d$", line)
        assert len(line) <= WIDTH
        assert f"clips/s {entry['clips_per_second']:.4g}" in line
        assert set(SPEED) <= entry.keys()
        assert entry["clips_per_second"] > 0
        assert 0 < entry["forward_backward_share"] <= entry["compute_share"] <= 1
        measured = {"ntp": "loss", "grpo": "reward", "task": "task_loss"}[kind]
        assert {"lr", "gazes", "gradient_norm", measured} <= entry.keys()
        assert f"{measured} {entry[measured]:.4g}" in line
        assert ("temperature" in entry) == (kind == "grpo")


def test_shares_are_of_the_time_that_passed():
    watch = Stopwatch()
    with watch.stage("waiting"):
        time.sleep(0.03)
    with watch.paused():
        time.sleep(0.2)
    time.sleep(0.03)
    seconds, steps, shares = watch.read(5)
    assert steps == 5
    assert 0.06 <= seconds < 0.2
    assert 0.2 < shares["waiting"] <= 0.6
    assert watch.read(5)[2] == {}


def test_the_progress_line_ends_with_the_time_left(monkeypatch, caplog):
    now = iter((100.0, 130.0, 160.0))
    monkeypatch.setattr("autogaze.training.reporting.time.perf_counter", lambda: next(now))
    progress = Progress(10, 490, active=True)
    with caplog.at_level(logging.INFO):
        progress.report(20, {"loss": 0.51234, "clips_per_second": 12.0})
        progress.report(130, {"loss": 0.4})
    assert caplog.messages == [
        "step 20/490  loss 0.5123  clips/s 12  left 23:30",
        "step 130/490  loss 0.4  left 3:00",
    ]


METRICS = {
    "lr": 1.25e-4,
    "gazes": 123.4,
    "temperature": 2.345,
    "reward": -0.06789,
    "loss": -123.4,
    "gradient_norm": 0.001234,
    "clips_per_second": 12.34,
    "forward_backward_share": 0.8123,
    "compute_share": 0.9123,
    "waiting_share": 0.01234,
}
"""As many as there ever are."""


class Terminal(io.StringIO):
    """Takes what is written to it."""

    def isatty(self):
        return True


def test_a_line_of_the_log_has_room_for_the_time_before_it(caplog):
    progress = Progress(0, 1_000_000, active=True)
    with caplog.at_level(logging.INFO):
        progress.report(12_345, METRICS | {"unreadable": 12.0})
    (line,) = caplog.messages
    assert len("[11-22 19:05:18] " + line) <= 79
    assert re.search(r"^step 12345/1000000  reward -0\.06789  clips/s 12\.34  left [\d:]+$", line)


@pytest.mark.parametrize("columns", [20, 80, 400])
def test_the_progress_line_is_as_wide_as_the_terminal(columns, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("autogaze.training.reporting._columns", lambda: columns)
    progress = Progress(0, 2, active=True)
    progress.report(1, METRICS)
    progress.report(2, METRICS)
    lines = terminal.getvalue().split("\r")[1:]
    assert max(map(len, lines)) < columns
    if columns == 80:
        assert "loss -123.4  reward -0.06789  clips/s 12.34" in lines[-1]
    if columns == 400:
        assert all(f" {value:.4g}" in lines[-1] for value in METRICS.values())


def test_a_summary_is_logged_before_the_first_step(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer = tiny_trainer("ntp", tmp_path, max_steps=3, val_nsteps=3, log_nsteps=50)
        trainer.fit()
    first = next(n for n, line in enumerate(caplog.messages) if line.startswith("step "))
    block = dict(line.split(maxsplit=1) for line in caplog.messages[:first])
    assert block["start"].startswith("at step 0")
    assert block["train"].startswith("10 clips")
    assert block["val"].startswith("4 of 10 clips")
    assert block["steps"] == "0 to 3, 4 clips each, 1.2 epochs"
    weights = sum(parameter.numel() for parameter in trainer.objective.model.parameters())
    assert f"{weights:,} weights" in block["trained"]
    assert block["device"] == "cpu, float32"
    assert block["results"] == str(tmp_path / "tiny")
    assert max(len(line) for line in caplog.messages[: first - 1]) <= WIDTH
    steps = [line.split()[1] for line in caplog.messages if re.match(r"step \d+/", line)]
    assert steps == ["1/3", "3/3"], "the first one soon, and as ever"
    assert [entry["step"] for entry in metrics_of(tmp_path)] == [0, 3, 3]


def labelled_training(folder, share):
    """Options of a training on drawn clips, a share of which a file labels."""
    config = tiny_config("ntp", folder)
    pyramid = PatchPyramid.parse("32+64", 16)
    (member,) = read_dataset(config["dataset"]).members()
    clips = member.to_label("train", pyramid, 0)
    names = [clips.name(number) for number in range(round(share * len(clips)))]
    entry = {"gazing_pos": [[1], [22]], "task_losses": [[0.1], [0.1]]}
    (folder / "labels.json").write_text(json.dumps(dict.fromkeys(names, entry)))
    config["dataset"]["greedy_labels"] = None
    config["dataset"]["gt_gazing_pos_paths"] = {"train": str(folder / "labels.json")}
    return config


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_clips_without_labels_are_counted_and_too_many_are_warned_of(share, tmp_path, caplog):
    trainer = build_trainer(labelled_training(tmp_path, share))
    with caplog.at_level(logging.INFO):
        trainer.fit()
    assert len(trainer.data.train) == round(10 * share)
    (summary,) = (line for line in caplog.messages if line.startswith("train "))
    assert f"{10 * share:.0f} with labels" in summary
    assert (f"{10 - 10 * share:.0f} of 10 found" in summary) == (share < 1)
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    few = [line for line in warned if re.search(r"labels\.json .*\b3 of the 10\b", line)]
    assert len(few) == (share < 0.5)


def test_a_mixture_counts_the_labels_of_its_parts(tmp_path):
    labelled = labelled_training(tmp_path, 0.4)["dataset"]
    drawn = {"name": "procedural", "num_clips": 5}
    parts = {"a": labelled, "b": {**drawn, "greedy_labels": {}}, "c": drawn}
    source = read_dataset({"name": "mixture", "clip_len": 2, "seed": 0, "parts": parts})
    clips = source.clips("train", PatchPyramid.parse("32+64", 16), 0)
    counts, (coverage,) = count_labels(clips)
    assert counts == {"with labels": 4, "labelled while read": 5, "without labels": 5}
    assert (coverage.labelled, coverage.found) == (4, 10)


def test_on_a_terminal_one_line_changes(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress(0, 2, active=True)
    progress.report(1, {"loss": 0.123456})
    progress.report(2, {"loss": 0.1})
    progress.end()
    first, second = terminal.getvalue().removesuffix("\n").split("\r")[1:]
    assert first.startswith("step 1/2  loss 0.1235  left")
    assert second.startswith("step 2/2  loss 0.1  left 0:00")
    assert len(second) == len(first), "what is longer than the new line is wiped away"
    assert not caplog.messages
    Progress(0, 2, active=False).report(1, {"loss": 0.1})
    assert terminal.getvalue().endswith("\n")


def test_a_loss_and_its_controls_are_one_panel(tmp_path):
    entries = [
        {"step": 0, "val/loss": 0.3, "val/shuffled_loss": 0.4, "val/random_loss": 0.5},
        {"step": 0, "val/loss@0.1": 0.2, "val/random_loss@0.1": 0.3},
        {"step": 1, "loss": 2.0, "clips_per_second": 3.0, "val/gazing_ratio": 0.1},
    ]
    assert panels(entries) == {
        "val/loss": ["val/loss", "val/shuffled_loss", "val/random_loss"],
        "val/loss@0.1": ["val/loss@0.1", "val/random_loss@0.1"],
        "loss": ["loss"],
        "clips_per_second": ["clips_per_second"],
        "val/gazing_ratio": ["val/gazing_ratio"],
    }
    assert not draw_curves([], tmp_path / "none.png")
    pytest.importorskip("matplotlib")
    assert draw_curves(entries, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_validation_writes_metrics_pictures_and_curves(tmp_path, curves):
    tiny_trainer("ntp", tmp_path, val_nsteps=3, val_pictures=2).fit()
    folder = tmp_path / "tiny"
    validated = [entry for entry in metrics_of(tmp_path) if "val/loss" in entry]
    assert [entry["step"] for entry in validated] == [0, 3]
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    assert pictures == [f"step-{step:08d}-clips-from-0000.png" for step in (0, 3)]
    pytest.importorskip("matplotlib")
    assert (folder / "curves.png").is_file()


def test_a_full_disk_costs_the_log_and_not_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # another test is about these
    trainer = tiny_trainer("ntp", tmp_path, max_steps=1, val_nsteps=1)
    with small_disk(kilobytes=0), caplog.at_level(logging.ERROR):
        assert trainer.fit().step == 1
    for name in ("metrics.jsonl", "clips-from-0000.png"):
        assert f"{name}: cannot be written" in caplog.text


def test_metrics_that_are_not_finite_are_left_out_and_named(tmp_path, caplog):
    trainer = tiny_trainer("ntp", tmp_path)
    trainer.metrics_log.write(4, {"loss": 1.0, "val/loss": float("nan")})
    (line,) = trainer.metrics_log.path.read_text().splitlines()
    assert json.loads(line) == {"step": 4, "loss": 1.0}
    assert "val/loss is nan" in caplog.text


def test_a_truncated_line_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
