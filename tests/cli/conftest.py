"""A video and a folder for results."""

from pathlib import Path

import pytest

from tests.clips import make_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "square.mp4", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    return path
