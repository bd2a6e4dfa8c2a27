"""Giving memory back to the system, where the allocator keeps what nobody uses any more."""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Return free pages to the system; does nothing where the C library is not glibc.

    Frames of changing sizes are made and freed in several threads (decoder, encoders,
    drawing), each with a heap of its own. What is free lies scattered between what is
    not, so that glibc keeps more and more of it, although nothing is leaked: a fifth of
    all memory after some hundred frames with all pictures asked for.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
