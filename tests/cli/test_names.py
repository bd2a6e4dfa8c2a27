"""Names that are too long, not UTF-8, or that the terminal cannot show."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import fails, run
from tests.clips import make_video

RAW = os.fsdecode(b"caf\xe9.mp4")
"""A name in Latin-1, which is not UTF-8."""


def test_a_name_that_is_too_long_fails_alone(video: Path, folder: Path) -> None:
    long = video.with_name("x" * 250 + ".mp4")
    long.write_bytes(video.read_bytes())
    paths = ("gaze", video, long, "--ratio", 0.1, "--tiles", "one", "--json")
    result = run(*paths, "--out", folder)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["ok"] for line in lines] == [True, False]
    assert "x" * 250 in lines[1]["error"]
    assert [path.name for path in folder.iterdir()] == ["square.safetensors"]


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "x" * 5000, "loop.mp4", "nowhere.mp4"])
def test_names_without_a_file_are_bad_input_everywhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    path, out = tmp_path / name, tmp_path / "labels.json"
    for words in (
        ("info", path),
        ("gaze", path, "--ratio", 0.1),
        ("label", path, "--max-ratio", 0.1, "--out", out),
        ("measure", tmp_path, path),
    ):
        message = fails(*words).replace("\n", "")
        assert name[:40] in message, words
        for link, reason in (("loop", "leads back"), ("nowhere", "gone.mp4")):
            assert not name.startswith(link) or reason in message, words
    assert not out.exists()


COMMANDS = """
import json, sys
from autogaze.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        print("\\nended with", end.code, file=sys.stderr)
"""
"""Each in its turn; what is no exit ends the whole with a traceback."""


def test_videos_of_any_name_in_an_ascii_terminal(tmp_path: Path) -> None:
    existing, too_long = (RAW, "é中.mp4"), "x" * 300 + ".mp4"
    for name in existing:
        make_video(tmp_path / name, 3)
    commands = [
        [*command, str(tmp_path / name)]
        for command in (["gaze", "--json"], ["info"])
        for name in (*existing, too_long)
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(rb"ended with (\w+)", done.stderr) == [b"0", b"0", b"2"] * 2
    assert b"Traceback" not in done.stderr


def test_a_plot_and_labels_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    make_video(videos / RAW, 4)
    plot, out = tmp_path / "plot.png", tmp_path / "labels.json"
    result = run("gaze", videos / RAW, "--ratio", 0.1, "--tiles", "one", "--plot", plot)
    assert result.exit_code == 0, result.output
    assert plot.is_file()
    result = run("label", videos, "--out", out, "--clip-len", 2, "--scales", "32+64")
    assert result.exit_code == 0, result.output
    assert [name.endswith(RAW) for name in json.loads(out.read_text())] == [True]
