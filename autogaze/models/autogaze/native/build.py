"""Compiling the kernel on the machine that will run it, once.

What comes out lies in the user's cache folder under a name made of everything that it
depends on: source, flags, compiler and processor.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("attention.c")

FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC"),
    # No -ffast-math: linked into a library it changes how the whole process rounds.
    *("-ffinite-math-only", "-fno-signed-zeros", "-fno-math-errno", "-fno-trapping-math"),
)


class NotBuiltError(Exception):
    """There is no kernel on this machine; the message says why."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/autogaze, or ~/.cache/autogaze."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "autogaze"


def compiler() -> list[str]:
    """$CC, or the first C compiler there is."""
    given = os.environ.get("CC")
    if given:
        return shlex.split(given)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise NotBuiltError("there is no C compiler (cc, gcc or clang)")


def built_library(head_dim: int) -> Path:
    """The kernel for one head dimension, compiled unless it has been before.

    Raises:
        NotBuiltError: it cannot be compiled, or not be written to the cache folder.
    """
    command = [*compiler(), *FLAGS, f"-DD={head_dim}"]
    version = _run([command[0], "--version"])
    parts = (SOURCE.read_text(), shlex.join(command), version, _processor())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    try:
        folder = cache_folder()
        path = folder / f"attention-{name}.so"
        if path.exists():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        # Several processes may do this at once: each writes its own file, and the last wins.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            output = Path(scratch) / path.name
            _run([*command, str(SOURCE), "-o", str(output)])
            os.replace(output, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise NotBuiltError(f"the cache folder cannot be used: {error}") from error
    return path


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"the C compiler {command[0]!r} cannot be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[:1]
        raise NotBuiltError(f"{command[0]!r} failed: {said[0] if said else 'it does not say why'}")
    return done.stdout


def _processor() -> str:
    """What "native" means here."""
    if sys.platform != "linux":
        return f"{platform.machine()} {platform.processor()}"
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(kinds))])
