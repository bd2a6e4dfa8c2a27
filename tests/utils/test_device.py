"""Memory goes back to the system where glibc keeps it, and nothing breaks elsewhere."""

import ctypes

import pytest

from autogaze.utils import device as memory


def test_the_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    memory._trim.cache_clear()
    try:
        memory.give_back()
        memory.give_back()
    finally:
        memory._trim.cache_clear()
    assert asked == [0, 0]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_glibc_nothing_happens(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory._trim.cache_clear()
    try:
        memory.give_back()
    finally:
        memory._trim.cache_clear()


def test_here_it_runs() -> None:
    memory.give_back()
