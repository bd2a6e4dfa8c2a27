"""Models work with transformers 4.57 as well, which code on the hub still needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[1]
CONCERNED = [
    *(
        f"tests/models/autogaze/test_{name}.py"
        for name in (
            "call",
            "configuration",
            "decoder",
            "modeling",
            "output",
            "processing",
            "published",
            "scoring",
        )
    ),
    "tests/conformance",
    "tests/mllm",
    "tests/test_published_code.py",
    "tests/selectors/test_learned.py",
    "tests/training/test_checkpoints.py::test_a_full_disk_costs_a_checkpoint_and_not_the_training",
    *(
        f"tests/vision_encoders/test_{name}.py"
        for name in (
            "adapter",
            "blocks",
            "gazed",
            "graphs",
            "pooling",
            "positions",
            "siglip",
            "siglip_published",
        )
    ),
]
"""What meets transformers: the rest is our own."""
OUR_OWN = [
    *(f"tests/mllm/test_{name}.py" for name in ("selection", "tables", "unit_choice", "units")),
    *(
        f"tests/mllm/nvila/test_{name}.py"
        for name in ("budget_and_gaze", "documented_tokens", "frames", "gazed_video", "selection")
    ),
]
"""In the folders above: sizes, budgets and ids, which are computed before any model is called."""
OVERLAY = Path(sys.prefix) / "transformers4"


@pytest.mark.slow
@pytest.mark.skipif(not OVERLAY.is_dir(), reason="no second transformers; `make test` installs it")
def test_what_meets_it_with_transformers_4():
    assert transformers.__version__.startswith("5.")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OVERLAY), str(ROOT)])}
    version = "from importlib.metadata import version; print(version('transformers'))"
    found = subprocess.run(
        [sys.executable, "-c", version], env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith("4.57."), found.stderr[-2000:]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *CONCERNED]
        + [f"--ignore={path}" for path in OUR_OWN],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
