"""A few hundred seeded cases end rightly; `python -m tests.fuzz` runs any number."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import nvila_cases, processor_cases
from tests.fuzz.__main__ import supervise
from tests.fuzz.cases import KINDS
from tests.fuzz.material import Material
from tests.fuzz.mutation import change_bytes, change_values

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_seeded_cases() -> None:
    # In a process of its own: here, shapes and types are checked before functions see them.
    words = [sys.executable, "-m", "tests.fuzz", "--cases", "500", "--seed", "1"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PARTS = {
    "configuration": nvila_cases._configuration,
    "model folder": nvila_cases._checkpoint,
    "conversation": processor_cases._conversation,
    "processor's files": processor_cases._files,
    "video of a prompt": processor_cases._video,
}
"""Of kinds that also have parts without any right input."""
NONE_RIGHT = ("arguments", "mllm", "nvila", "processor")


@pytest.mark.parametrize("kind", [kind for kind in (*KINDS, *PARTS) if kind not in NONE_RIGHT])
def test_inputs_are_right_before_they_are_changed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cases", "question_cases", "nvila_cases", "processor_cases"):
        name = f"tests.fuzz.{module}"
        monkeypatch.setattr(f"{name}.change_bytes", lambda data, random: data)
        monkeypatch.setattr(f"{name}.change_values", lambda tree, random: (tree, []))
    monkeypatch.setattr("tests.fuzz.cases._change_header", lambda data, random: data)
    monkeypatch.setattr("tests.fuzz.cases._change_weights", lambda data, random: data)
    (tmp_path / "material").mkdir()
    material, outcomes = Material.make(tmp_path / "material"), []
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcomes.append({**KINDS, **PARTS}[kind](material, folder, Random(seed)))
    # Files may be taken away all the same, and seconds asked for that a video does not have.
    assert outcomes.count("ok") >= 2


@pytest.mark.parametrize("seed", range(20))
def test_cases_follow_from_their_seed(seed: int) -> None:
    data, tree = bytes(range(256)) * 4, {"a": [1, {"b": 2.5}], "c": "text"}
    assert change_bytes(data, Random(seed)) == change_bytes(data, Random(seed))
    first, second = (change_values(tree, Random(seed))[1] for _ in range(2))
    assert first == second
    assert tree == {"a": [1, {"b": 2.5}], "c": "text"}


def test_a_wrong_outcome_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        b'{"case": 0, "kind": "video", "outcome": "begins"}',
        b'{"case": 0, "kind": "video", "outcome": "ok"}',
        b'{"case": 1, "kind": "video", "outcome": "begins"}',
        b'{"case": 1, "kind": "video", "outcome": "wrong", "why": "exit code 70"}',
    ]

    class Ended:
        def poll(self) -> int:
            return 0

        kill = wait = poll

    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: Ended())
    monkeypatch.setattr("tests.fuzz.__main__.lines_of", lambda worker: lines)
    assert supervise(0, 2, 0) == 1
    printed = capsys.readouterr().out
    assert "case 1 (video): exit code 70" in printed
    assert "{'ok': 1, 'wrong': 1}" in printed
