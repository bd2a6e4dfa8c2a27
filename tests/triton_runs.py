"""Tests in a process whose Triton interprets, and kernels compiled for a GPU that is not here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_interpreted(cases: str) -> None:
    """Run a file of tests with TRITON_INTERPRET=1, which Triton reads when it is imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [*command, cases],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-400:]


def compile_for_gpu(
    kernel: Any, signature: dict[str, str], constants: dict[str, Any], **options: Any
) -> Any:
    """A kernel compiled for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
