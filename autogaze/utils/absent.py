"""Names of the published package that have no counterpart here: importing one says what to use."""

from collections.abc import Callable, Mapping
from typing import Any


def refuse_names(module: str, absent: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: ImportError with the advice for absent names, else AttributeError."""

    def lookup(name: str) -> Any:
        if name in absent:
            raise ImportError(f"{module}: {name} is not in this package: {absent[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return lookup
