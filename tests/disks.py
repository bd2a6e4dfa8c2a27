"""Disks that fill up."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(kilobytes: int = 64) -> Iterator[None]:
    """No file may grow beyond this: the system refuses, much as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
