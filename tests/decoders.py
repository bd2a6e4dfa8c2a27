"""torchcodec in tests: whether it is there, whether it decoded, and as if it were not there."""

import sys
from collections.abc import Iterator

import pytest

from autogaze.video.decoders import unavailable
from autogaze.video.torchcodec import FrameTable

WHY_NOT = unavailable()
needs_torchcodec = pytest.mark.skipif(WHY_NOT is not None, reason=f"torchcodec: {WHY_NOT}")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the frames that torchcodec decoded so far."""
    numbers: list[int] = []
    pixels = FrameTable.pixels

    def noting(self, frame):
        numbers.append(frame.number)
        return pixels(self, frame)

    monkeypatch.setattr(FrameTable, "pixels", noting)
    return numbers


@pytest.fixture
def without_torchcodec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if it were not installed."""
    unavailable.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    yield
    unavailable.cache_clear()
