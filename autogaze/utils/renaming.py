"""Warnings about former names, which still work for one release."""

import warnings


def renaming(old: str, new: str) -> str:
    """The message for users of a former name."""
    return f"{old} is now {new}; the old name goes with the next release"


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever called the function, property or module attribute that calls this."""
    warnings.warn(renaming(old, new), DeprecationWarning, stacklevel=3)
