"""Checks of values: what counts as a whole number, a number, a tensor, a path; bounds of sizes."""

import errno
import math
import operator
import os
import re
from numbers import Real
from pathlib import Path
from typing import Any

from autogaze.errors import AutoGazeError

MAX_SCALES, MAX_SIDE, MAX_PATCHES = 64, 2**16, 2**22
"""Bounds of a pyramid, of which tables are made in memory: 2**22 patches are a frame of 32,768
pixels in cells of 16."""


def whole(value: Any) -> int | None:
    """The integer that a value is (3, 3.0, NumPy's and PyTorch's 3), else None: True is none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # PyTorch's of several values, or on no device
        pass
    return int(value) if isinstance(value, float) and value.is_integer() else None


def is_one_of(value: Any, known: tuple[str | None, ...]) -> bool:
    """Whether a value is one of these names; of arrays and tensors `in` would compare the elements."""
    return isinstance(value, str | None) and value in known


def is_number(value: object) -> bool:
    """Whether a value is a real number; True is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a real number, neither NaN nor infinite."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def is_dense(value: Any) -> bool:
    """Whether this is a strided tensor with values: neither sparse, nor nested, nor on "meta"."""
    import torch  # not needed for all else here

    strided = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return strided and not (value.is_nested or value.is_meta)


def as_path(value: Any, error: type[AutoGazeError] = AutoGazeError) -> Path:
    """The path that a value names.

    Raises:
        error: neither text nor a path, one with a null character, which no file can have, or one of
            another machine (`file://HOST/...`).
    """
    if not isinstance(value, str | os.PathLike):
        raise error(f"expected the path of a file, got {describe_value(value)}")
    text = os.fsdecode(value)
    if "\0" in text:
        raise error(f"{describe_value(text)}: a path must not hold null characters")
    if re.match("file://", path := without_file_scheme(text), flags=re.IGNORECASE):
        raise error(f"{text}: names another machine; expected a path, or file:///PATH of this one")
    return Path(path)


def without_file_scheme(path: str) -> str:
    """A path without the `file://` of a URI of this machine, also where a `Path` has lost slashes of it.

    That of another machine stays as it is.
    """
    return re.sub(r"^file:(//?localhost(?=/)|//(?=/)|(?=/(?!/)))", "", path, flags=re.IGNORECASE)


def why_absent(path: str | os.PathLike[str], what: str = "file") -> str:
    """Why there is nothing at a path: "no such file", or what is wrong with a link or a name."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads back to itself"
        if os.path.islink(path):
            return f"is a symbolic link to {os.readlink(path)}, which does not exist"
        if error.errno not in (errno.ENOENT, errno.ENOTDIR) and error.strerror:
            return f"cannot be opened: {error.strerror}"
    except ValueError as error:  # a null character in the name
        return f"cannot be opened: {error}"
    return f"no such {what}"


def describe_value(value: Any, longest: int = 80) -> str:
    """A value for a message: plain values as Python writes them, shortened; others by their type."""
    if not (value is None or isinstance(value, str | bytes | int | float | list | tuple | dict)):
        return f"a {type(value).__name__}"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nested too deeply
        return f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}... ({type(value).__name__})"
