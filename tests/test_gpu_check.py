"""`make gpu-check` works where there is no GPU, and its tests where there is neither PyAV nor our conftest."""

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autogaze.models.autogaze.kv_cache import attention_kernel

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_check.py"

READ = """
import runpy, sys
for missing in ("av", "accelerate", "hydra", "omegaconf", "matplotlib", "cv2", "triton"):
    sys.modules[missing] = None
sys.path.insert(0, sys.argv[2])
assert runpy.run_path(sys.argv[1])["measured_rows"]
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
    monkeypatch.syspath_prepend(SCRIPT.parent)
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
        "learned and SigLIP2-base/16-224 together",
        "greedy and SO400M/14-392 together",
    ):
        times = [row["ms"] for row in rows if row["work"].startswith(work)]
        assert times
        assert all(ms > 0 for ms in times)
    assert all(row["work"] in page for row in rows)
    notes = [row["note"] for row in rows if row["work"].startswith(("greedy", "training"))]
    assert any("clips/s" in note for note in notes)
    assert any(note.startswith(("native: ", "torch: ")) for note in notes)
    assert "| 122 | 650 |" in page  # what 0.1.0 and the published code took
    by = [row["note"] for row in rows if row["work"].startswith("learned, ")]
    with torch.no_grad():
        kernel = attention_kernel(torch.zeros(1), 32).name
    assert any("graphs" in note or f"attention: {kernel}" in note for note in by)
    [agreement] = [row["note"] for row in rows if "chooses as float32 does" in row["work"]]
    assert "% of the patches" in agreement


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return runpy.run_path(str(SCRIPT))


def test_nothing_is_begun_when_the_time_is_over(script: dict[str, Any]) -> None:
    bench = script["Bench"](torch.device("cpu"), tiny=True, seconds=-1.0)
    rows = [row for _, rows in script["measured_rows"](bench) for row in rows]
    assert rows
    assert {(row.ms, row.note) for row in rows} == {(None, "left out: the time was over")}
    assert not any(row.failed for row in rows)


WORKER = """
import json, os, sys, time
option, seconds, _, *names = sys.argv[1:]
assert option == "--seconds"
for name in names:
    if name == "breaks":
        os._exit(7)
    if name == "hangs":
        time.sleep(60)
    print("a library says something")
    print(json.dumps({"name": name, "rows": [{"work": name, "ms": float(seconds)}]}), flush=True)
"""


def test_a_row_that_breaks_or_hangs_costs_no_other(script: dict[str, Any]) -> None:
    isolated = script["isolated_rows"]
    isolated.__globals__["LONGEST"] = 3
    names, ends = ["one", "breaks", "two", "hangs", "three"], time.monotonic() + 60
    rows = list(isolated([sys.executable, "-c", WORKER], list(names), ends))
    assert [row.work for row in rows] == names
    one, breaks, two, hangs, three = (row.ms for row in rows)
    assert (breaks, hangs) == (None, None)
    # Each process is told how much time is left, so that the whole run ends in time.
    assert 60 >= one >= two > three > 40
    assert [row.failed for row in rows] == [False, True, False, True, False]
    assert "exit code 7" in rows[1].note


def test_a_row_for_which_no_time_is_left_has_not_failed(script: dict[str, Any]) -> None:
    isolated = script["isolated_rows"]
    isolated.__globals__["GRACE"] = 2
    names, ends = ["one", "hangs", "two"], time.monotonic()
    rows = list(isolated([sys.executable, "-c", WORKER], list(names), ends))
    assert [(row.work, row.failed) for row in rows] == [(name, False) for name in names]
    assert rows[1].note == rows[2].note == "left out: the time was over"


def test_what_is_slow_is_repeated_less_often(script: dict[str, Any]) -> None:
    bench = script["Bench"](torch.device("cpu"), tiny=False, seconds=60.0)
    milliseconds = script["Bench"].milliseconds
    for long, expected in ((20.0, 1 + 5), (0.0, 1 + 1)):
        milliseconds.__globals__["LONG"] = long
        calls: list[None] = []
        assert milliseconds(bench, lambda calls=calls: calls.append(None)) >= 0
        assert len(calls) == expected


def test_a_row_that_raises_says_so(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(bench: object) -> None:
        raise RuntimeError("an illegal | instruction")

    measured = script["measured_rows"]
    monkeypatch.setitem(measured.__globals__, "works", lambda: {"one": fails, "two": fails})
    bench = script["Bench"](torch.device("cpu"), tiny=True, seconds=60.0)
    rows = [row for _, rows in measured(bench) for row in rows]
    assert [(row.work, row.failed) for row in rows] == [("one", True), ("two", True)]
    assert rows[0].note == "failed: RuntimeError: an illegal / instruction"


@pytest.mark.slow
def test_rows_need_no_more_than_torch_and_transformers() -> None:
    command = [sys.executable, "-c", READ, str(SCRIPT), str(SCRIPT.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_device_tests_need_no_more_than_torch_and_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = SCRIPT.parent.parent
    monkeypatch.syspath_prepend(SCRIPT.parent)
    files = runpy.run_path(str(SCRIPT))["device_test_files"]()
    assert "tests/models/autogaze/test_cuda.py" in files
    command = [sys.executable, "-c", COLLECT, *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert all(f"{file}: " in done.stdout for file in files)


def test_device_tests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    module = runpy.run_path(str(SCRIPT))
    file = tmp_path / "test_some.py"
    file.write_text(
        "def test_right(): pass\ndef test_wrong(): assert 0\nimport pytest\npytestmark = pytest.mark.cuda\n"
    )
    monkeypatch.setitem(
        module["device_tests"].__globals__, "device_test_files", lambda: [str(file)]
    )
    said, passed = module["device_tests"](100.0)
    assert not passed
    assert "1 failed, 1 passed" in said
