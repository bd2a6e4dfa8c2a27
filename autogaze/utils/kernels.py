"""Kernels of our own: C files, compiled where they run and kept in a cache folder, and Triton's.

Whoever uses a kernel has other code for where it cannot be built, or does not give what it should.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch

from autogaze.errors import SelectorError

FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC"),
    # No -ffast-math: linked into a library it changes how the whole process rounds.
    *("-ffinite-math-only", "-fno-signed-zeros", "-fno-math-errno", "-fno-trapping-math"),
)


log = logging.getLogger(__name__)

Library = TypeVar("Library")

_TYPES = {
    "pointer": ctypes.c_void_p,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
}


class NotBuiltError(Exception):
    """A kernel cannot be built or used on this machine; the message says why."""


def chosen_kernel(switch: str, *others: str) -> str | None:
    """Value of an environment variable that chooses a kernel: "native", "torch", or None if not set.

    Args:
        others: further values that it can have.

    Raises:
        SelectorError: an unknown value.
    """
    choice = os.environ.get(switch) or None
    known = ("native", "torch", *others)
    if choice is not None and choice not in known:
        listed = " or ".join(map(repr, known))
        raise SelectorError(f"{switch} must be {listed} or not set, got {choice!r}")
    return choice


@dataclass(frozen=True)
class Kernel(Generic[Library]):
    """Choice between a kernel in C and PyTorch.

    Attributes:
        name: "native" is ours, compiled here; "torch" is PyTorch's.
        why: the reason for the choice, in words.
        library: ours, where it was chosen.
    """

    name: Literal["native", "torch"]
    why: str
    library: Library | None = field(default=None, repr=False, compare=False)


def built_kernel(make: Callable[[Path], Library], source: Path, *options: str) -> Kernel[Library]:
    """Our kernel, or PyTorch where `make`, which gets the compiled file, raises NotBuiltError.

    Other arguments as of `built_library`.
    """
    try:
        path = built_library(source, *options)
        kernel: Kernel[Library] = Kernel("native", f"compiled here: {path}", make(path))
    except NotBuiltError as error:
        kernel = Kernel("torch", str(error))
    log.debug("%s: %s (%s)", source.stem, kernel.name, kernel.why)
    return kernel


def suitable_kernel(
    switch: str, unsuitable: str | None, built: Callable[[], Kernel[Library]]
) -> Kernel[Library]:
    """The kernel for some tensors.

    Args:
        switch: environment variable that may choose.
        unsuitable: why ours does not take these tensors, if it does not.
        built: compiles ours at first use.

    Raises:
        SelectorError: the variable has an unknown value, or asks for what is not available.
    """
    choice = chosen_kernel(switch)
    if choice == "torch":
        return Kernel("torch", f"{switch}=torch")
    kernel = built() if unsuitable is None else Kernel[Library]("torch", unsuitable)
    if choice == "native" and kernel.name != "native":
        raise SelectorError(f"{switch}=native, but it cannot be had: {kernel.why}")
    return kernel


def c_struct(fields: str, **types: Any) -> Any:
    """A C struct: in every line of `fields` a type ("pointer", "int32", ...) and names of that type.

    `types` are further ones.
    """
    known = _TYPES | types
    lines = (line.split() for line in fields.strip().splitlines())
    named = [(name, known[kind]) for kind, *names in lines for name in names]
    return type("Struct", (ctypes.Structure,), {"_fields_": named})


@cache
def struct_function(source: Path, name: str) -> Callable[[ctypes.Structure], None]:
    """A compiled function that takes the address of a struct; raises NotBuiltError."""
    function = getattr(load_library(built_library(source)), name)
    function.argtypes, function.restype = [ctypes.c_void_p], None
    return lambda struct: function(ctypes.addressof(struct))


def load_library(path: Path) -> ctypes.CDLL:
    """A compiled library; NotBuiltError where it cannot be loaded."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NotBuiltError(f"the compiled kernel cannot be loaded: {error}") from error


@cache
def parallel_address() -> int:
    """Address of the GOMP_parallel that PyTorch itself calls.

    A second thread pool would compete with PyTorch's for the same cores.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(path)).GOMP_parallel
    except (OSError, AttributeError) as error:
        raise NotBuiltError(f"PyTorch's threads cannot be had: {error}") from error
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def built_library(source: Path, *options: str) -> Path:
    """Path of the shared library of a C file, compiled unless it is cached.

    Args:
        source: the C file; headers that it includes lie beside it.
        options: of the compiler, besides `FLAGS`.

    Raises:
        NotBuiltError: it cannot be compiled, or not be written to the cache folder.
    """
    if sys.platform != "linux":
        raise NotBuiltError(f"ours is built on Linux only, not on {sys.platform}")
    command = [*compiler(), *FLAGS, *options]
    version = _run([command[0], "--version"])
    headers = [path.read_text() for path in sorted(source.parent.glob("*.h"))]
    parts = (source.read_text(), *headers, shlex.join(command), version, _processor())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = cache_folder() / f"{source.stem}-{name}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several processes may do this at once: each writes its own file, the last wins.
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                output = Path(scratch) / path.name
                _run([*command, str(source), "-o", str(output)])
                os.replace(output, path)
    except OSError as error:  # full, read-only, or no folder
        raise NotBuiltError(
            f"the cache folder {path.parent} cannot be used ({error}); XDG_CACHE_HOME may name "
            "another place"
        ) from error
    return path


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
    """$CC, or the first C compiler on the path.

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


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"the C compiler {command[0]!r} cannot be run: {error}") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[:1] or ["it does not say why"]
        raise NotBuiltError(f"{command[0]!r} failed: {reason[0]}")
    return done.stdout


def _processor() -> str:
    """Description of the processor, on which "-march=native" depends."""
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = listing.read_text().split("\n\n")[0].splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(kinds))])


def power_of_two(number: int, least: int = 1) -> int:
    """The least power of two that is not below two numbers: the lengths that Triton has."""
    return max(least, 1 << max(0, number - 1).bit_length())


def failure_of(trial: Callable[[], str]) -> str:
    """Why kernels in Triton cannot be used; nothing where they can.

    Args:
        trial: runs them, and says what is wrong with their results; nothing if they are right.

    Raises:
        torch.OutOfMemoryError: there is no memory for the trial, which says nothing of the kernels.
    """
    try:
        with torch.device("cpu"):  # where trials draw their numbers, whatever device is the default
            return trial()
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        return f"Triton is not installed ({error}): pip install 'autogaze[gpu]'"
    except Exception as error:  # of a compiler, a driver, or a GPU that is too old
        return f"Triton cannot run it: {type(error).__name__}: {error}"
