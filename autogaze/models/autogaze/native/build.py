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
    """$XDG_CACHE_HOME/autogaze, or ~/.cache/autogaze.

    Raises:
        NotBuiltError: neither that variable nor a home folder is set.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "autogaze"
    try:
        return Path.home() / ".cache" / "autogaze"
    except RuntimeError as error:
        raise NotBuiltError(
            f"there is no cache folder: {error.args[0]}; XDG_CACHE_HOME may name one"
        ) from error


def compiler() -> list[str]:
    """$CC, or the first C compiler there is.

    Raises:
        NotBuiltError: there is none, or $CC is no command.
    """
    given = os.environ.get("CC", "").strip()
    if given:
        try:
            return shlex.split(given)
        except ValueError as error:  # a quote that is not closed
            raise NotBuiltError(f"CC={given!r} cannot be read as a command: {error}") from error
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
    path = cache_folder() / f"attention-{name}.so"
    try:
        if not path.exists():
            _compile([*command, str(SOURCE)], path)
    except OSError as error:  # full, read-only, or no folder
        raise NotBuiltError(
            f"the cache folder {path.parent} cannot be used ({error}); XDG_CACHE_HOME may name "
            "another place"
        ) from error
    return path


def _compile(command: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may do this at once: each writes its own file, and the last wins.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        output = Path(scratch) / path.name
        _run([*command, "-o", str(output)])
        os.replace(output, path)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"the C compiler {command[0]!r} cannot be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[:1]
        raise NotBuiltError(f"{command[0]!r} failed: {said[0] if said else 'it does not say why'}")
    return done.stdout


def _processor() -> str:
    """What "native" means here."""
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = listing.read_text().split("\n\n")[0].splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(kinds))])
