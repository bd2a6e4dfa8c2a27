"""Paths as users write them."""

from pathlib import Path

import pytest

from autogaze.checks import as_path
from autogaze.errors import OutputError
from autogaze.utils.files import check_writable


@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "file:///a",
        "file:/a",
        "FILE://localhost/a",
        Path("file:///a"),
        Path("file://localhost/a"),
    ],
)
def test_a_file_uri_is_a_path(path: str | Path):
    assert as_path(path) == Path("/a")


@pytest.mark.parametrize("path", ["file://server/a", "file://file:///a", "file://", "File://a.mp4"])
def test_files_of_another_machine_are_refused(path: str):
    with pytest.raises(OutputError, match="another machine"):
        as_path(path, OutputError)


def test_where_a_file_uri_points_is_checked(tmp_path: Path):
    check_writable(Path(f"file://{tmp_path}/gaze.json"))
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(Path(f"file://{tmp_path}/none/gaze.json"))
