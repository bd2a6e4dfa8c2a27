"""What the kernels in Triton compute, interpreted on this CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASES = [
    "tests/interpreter_cases.py",
    "tests/models/autogaze/steps_cases.py",
    "tests/models/autogaze/decoder_cases.py",
    "tests/models/autogaze/inhibition_cases.py",
    "tests/models/autogaze/layer_cases.py",
    "tests/reconstruction/triton_cases.py",
    "tests/vision_encoders/triton_cases.py",
]


@pytest.mark.slow
def test_its_interpreter_finds_what_pytorch_and_c_find() -> None:
    """In a process whose Triton interprets: that is decided when it is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [*command, "-p", "tests.quick_interpreter", *CASES],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-400:]
