"""The program itself: help, version, start-up, closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autogaze import __version__, gaze_video
from tests.cli.commands import run
from tests.clips import make_video

HEAVY = {"torch", "transformers", "av", "matplotlib", "pandas"}


def autogaze(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "autogaze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def gaze_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gaze") / "square.safetensors"
    gaze_video(make_video(path.with_suffix(".mp4"), 4), ratio=0.1).save(path)
    return path


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["gaze", "--help"], ["selectors"], ["info"]]
)
def test_what_needs_no_heavy_library_imports_none(words: list[str], gaze_file: Path) -> None:
    done = autogaze(*words, *([gaze_file] if words == ["info"] else []))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


def test_bad_outputs_are_refused_before_heavy_imports(tmp_path: Path) -> None:
    done = autogaze("gaze", tmp_path / "none.mp4", "--out", tmp_path / "gaze.txt")
    assert done.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & HEAVY


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autogaze", "gaze", str(tmp_path / "none.mp4")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("autogaze: error: ")
    assert f"{tmp_path}/none.mp4" in line


def test_help_and_version() -> None:
    assert run("--version").stdout.strip() == f"autogaze {__version__}"
    for command in (["gaze"], ["info"], ["label"], ["bench", "select"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert "Exit codes" in result.stdout
    assert run("gaze").exit_code == 2
    assert run("nonsense").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX's")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_nobody_reads_on(options: tuple[str, ...]) -> None:
    """As in `autogaze selectors | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "autogaze", "selectors", *options],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141
