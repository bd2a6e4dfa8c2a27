"""What a training writes down, and says."""

import io
import json
import logging
import re
import time

import pytest

from autogaze.training.checkpoints import Checkpoints
from autogaze.training.curves import draw_curves, panels
from autogaze.training.journal import read_metrics
from autogaze.training.progress import Progress, Stopwatch
from tests.disks import small_disk
from tests.training.tiny import RECIPES, tiny_trainer

SPEED = ("clips_per_second", "forward_backward_share", "compute_share", "waiting_share")


def metrics_of(folder):
    return read_metrics(folder / "tiny" / "metrics.jsonl")


@pytest.mark.parametrize("kind", RECIPES)
def test_every_stage_reports_clips_a_second_and_where_the_time_goes(kind, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        tiny_trainer(kind, tmp_path, max_steps=2).fit()
    entries = metrics_of(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2]
    lines = [line for line in caplog.messages if line.startswith("step ")]
    for line, entry, number in zip(lines, entries, (1, 2), strict=True):
        assert line.startswith(f"step {number}/2  ")
        assert re.search(r"left \d+:\d\d$", line)
        for name in SPEED:
            assert f"{name} {entry[name]:.4g}" in line
        assert entry["clips_per_second"] > 0
        assert 0 < entry["forward_backward_share"] <= entry["compute_share"] <= 1
        measured = {"ntp": "loss", "grpo": "reward", "judge": "task_loss"}[kind]
        assert {"lr", "gazes", "gradient_norm", measured} <= entry.keys()
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


def test_the_progress_line_tells_the_time_left(monkeypatch, caplog):
    now = iter((100.0, 130.0, 160.0))
    monkeypatch.setattr("autogaze.training.progress.time.perf_counter", lambda: next(now))
    progress = Progress(10, 490, shown=True)
    with caplog.at_level(logging.INFO):
        progress.report(20, {"loss": 0.51234, "clips_per_second": 12.0})
        progress.report(130, {"loss": 0.4})
    assert caplog.messages == [
        "step 20/490  loss 0.5123  clips_per_second 12  left 23:30",
        "step 130/490  loss 0.4  left 3:00",
    ]


def test_on_a_terminal_one_line_changes(monkeypatch, caplog):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress(0, 2, shown=True)
    progress.report(1, {"loss": 0.123456})
    progress.report(2, {"loss": 0.1})
    progress.end()
    first, second = terminal.getvalue().removesuffix("\n").split("\r")[1:]
    assert first.startswith("step 1/2  loss 0.1235  left")
    assert second.startswith("step 2/2  loss 0.1  left 0:00")
    assert len(second) == len(first), "what is longer than the new line is wiped away"
    assert not caplog.messages
    Progress(0, 2, shown=False).report(1, {"loss": 0.1})
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


def test_validation_writes_metrics_pictures_and_curves(tmp_path):
    tiny_trainer("ntp", tmp_path, val_nsteps=3, val_pictures=2).fit()
    folder = tmp_path / "tiny"
    validated = [entry for entry in metrics_of(tmp_path) if "val/loss" in entry]
    assert [entry["step"] for entry in validated] == [0, 3]
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    assert pictures == [f"step-{step:08d}-clips-from-0000.png" for step in (0, 3)]
    pytest.importorskip("matplotlib")
    assert (folder / "curves.png").is_file()


def test_a_full_disk_costs_the_journal_and_not_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # another test is about these
    trainer = tiny_trainer("ntp", tmp_path, max_steps=1, val_nsteps=1)
    with small_disk(kilobytes=0), caplog.at_level(logging.ERROR):
        assert trainer.fit().step == 1
    for name in ("metrics.jsonl", "clips-from-0000.png"):
        assert f"{name}: cannot be written" in caplog.text


def test_what_json_cannot_say_is_named_and_left_out(tmp_path, caplog):
    trainer = tiny_trainer("ntp", tmp_path)
    trainer.journal.write(4, {"loss": 1.0, "val/loss": float("nan")})
    (line,) = trainer.journal.path.read_text().splitlines()
    assert json.loads(line) == {"step": 4, "loss": 1.0}
    assert "val/loss is nan" in caplog.text


def test_half_a_line_is_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
