"""`make gpu-check` works where there is no GPU, and its tests where there is neither PyAV nor our conftest."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_check.py"

READ = """
import runpy, sys
for missing in ("av", "accelerate", "hydra", "omegaconf", "matplotlib", "cv2", "triton"):
    sys.modules[missing] = None
assert runpy.run_path(sys.argv[1])["training_rows"]
"""

COLLECT = """
import sys
for missing in ("av", "beartype"):
    sys.modules[missing] = None
import pytest
raise SystemExit(pytest.main(["-q", "--co", "--noconftest", "-p", "no:cacheprovider", "-m", "cuda", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_every_row_is_measured_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tiny", "--no-tests", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    page = (tmp_path / "gpu-check.md").read_text()
    assert page in capsys.readouterr().out
    rows = json.loads((tmp_path / "gpu-check.json").read_text())["rows"]
    for work in (
        "learned",
        "greedy",
        "labels of a training",
        "training",
        "SigLIP2-base/16-224",
        "SO400M/14-392",
    ):
        times = [row["ms"] for row in rows if row["work"].startswith(work)]
        assert times
        assert all(ms > 0 for ms in times)
    assert all(row["work"] in page for row in rows)
    notes = [row["note"] for row in rows if row["work"].startswith(("greedy", "training"))]
    assert any("clips/s" in note for note in notes)
    assert any(note.startswith(("native: ", "torch: ")) for note in notes)
    [agreement] = [row["note"] for row in rows if "chooses as float32 does" in row["work"]]
    assert "% of the patches" in agreement


def test_nothing_is_begun_when_the_time_is_over() -> None:
    script = runpy.run_path(str(SCRIPT))
    import torch

    bench = script["Bench"](torch.device("cpu"), tiny=True, seconds=-1.0)
    rows = list(script["measured_rows"](bench))
    assert rows
    assert {(row.ms, row.note) for row in rows} == {(None, "left out: the time was over")}


@pytest.mark.slow
def test_rows_need_no_more_than_torch_and_transformers() -> None:
    command = [sys.executable, "-c", READ, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_device_tests_need_no_more_than_torch_and_transformers() -> None:
    root = SCRIPT.parent.parent
    files = runpy.run_path(str(SCRIPT))["device_test_files"]()
    assert "tests/models/autogaze/test_cuda.py" in files
    command = [sys.executable, "-c", COLLECT, *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert all(f"{file}: " in done.stdout for file in files)
