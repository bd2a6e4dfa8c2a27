"""Checks values against annotations; an int passes for a float, as PEP 484 says."""

import functools
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments, made ready when it is first called.

    Every worker imports most of the package and calls a part of it: preparing all of it
    takes seconds per worker.
    """
    checked: Callable[..., Any] | None = None

    @functools.wraps(function)
    def first_or_later(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = _checked(function)
        return checked(*args, **kwargs)

    return first_or_later
