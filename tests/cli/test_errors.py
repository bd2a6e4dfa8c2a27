"""Commands that are stopped or broken: exit codes, and nothing half-written."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autogaze.pipeline import GazedChunk, GazeStream
from autogaze.rendering import ContactSheet
from autogaze.selectors.greedy import Greedy
from tests.cli.commands import everything, fails, run
from tests.clips import make_video


def test_ctrl_c_leaves_nothing(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ContactSheet.add
    calls = []

    def interrupted(self: ContactSheet, chunk: object) -> None:
        calls.append(chunk)
        if len(calls) == 2:
            raise KeyboardInterrupt
        usual(self, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(ContactSheet, "add", interrupted)
    message = fails("gaze", video, "--ratio", 0.05, *everything(folder), code=130)
    assert "stopped" in message
    assert list(folder.iterdir()) == []


def test_ctrl_c_tells_what_was_finished(
    video: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = GazeStream.__iter__

    def interrupted(self: GazeStream) -> Iterator[GazedChunk]:
        if Path(self.path).name == "other.mp4":
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(GazeStream, "__iter__", interrupted)
    other = make_video(tmp_path / "other.mp4", 5)
    videos = (video, tmp_path / "none.mp4", other, tmp_path / "never.mp4")
    result = run("gaze", *videos, "--ratio", 0.05, "--out", folder)
    assert result.exit_code == 130
    assert "square.mp4" in result.stdout
    assert re.search(r"\b1 of 4 .*\b1 failed.*\b2 not done", result.stdout)
    assert "stopped" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["square.safetensors"]


def test_a_defect_says_so(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ContactSheet, chunk: object) -> None:
        raise RuntimeError("a bolt came loose")

    monkeypatch.setattr(ContactSheet, "add", broken)
    result = run("gaze", video, *everything(folder), "--ratio", 0.05)
    assert result.exit_code == 70
    assert "a bolt came loose" in result.stderr
    assert list(folder.iterdir()) == []


def test_a_gpu_without_memory_left_is_no_defect(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no smaller part was tried: the message says what makes it smaller."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nMore of it.")

    monkeypatch.setattr(Greedy, "select", full)
    message = fails("bench", "select", "--selector", "greedy", "--repeats", 1)
    assert "8 GiB" in message
    assert "--device cpu" in message
    assert "More of it" not in message
    assert "defect" not in message
    monkeypatch.setattr(GazeStream, "__iter__", full)
    other = make_video(tmp_path / "other.mp4", 2)
    assert "--max-tiles" in fails("gaze", video, other)


COMMAND = (
    # Shells start background jobs with Ctrl-C ignored; here it must count.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from autogaze.cli.app import main; main()"
)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_job_leaves_nothing(
    stop: signal.Signals, code: int, folder: Path, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "long.mp4", 300)
    options = [*everything(folder), "--ratio", "0.5", "--tiles", "6x4"]
    job = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "gaze", str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(folder.iterdir()) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(folder.iterdir()), "it should be writing by now"
        job.send_signal(stop)
        message = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == code, message
    assert "Traceback" not in message[1]
    assert list(folder.iterdir()) == []
