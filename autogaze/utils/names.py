"""Names of earlier versions: those that have changed, and those that are not here any more."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renaming(old: str, new: str) -> str:
    """The message for users of a former name."""
    return f"{old} is now {new}; the old name goes with the next release"


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever called the function, property or module attribute that calls this."""
    warnings.warn(renaming(old, new), DeprecationWarning, stacklevel=3)


def refuse_names(module: str, absent: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: ImportError with the advice for absent names, else AttributeError."""

    def lookup(name: str) -> Any:
        if name in absent:
            raise ImportError(f"{module}: {name} is not in this package: {absent[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return lookup
