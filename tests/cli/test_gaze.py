"""`autogaze gaze`: reports, files and their names."""

import json
from pathlib import Path

import av
import pytest
from PIL import Image

from autogaze import gaze_video
from autogaze.gaze import Gaze
from tests.cli.commands import everything, fails, run
from tests.clips import make_video


def test_all_files_of_one_video(video: Path, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("gaze", video, "--ratio", 0.1, *everything(folder))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "square.overlay.mp4",
        "square.plot.png",
        "square.reconstruction.mp4",
        "square.safetensors",
        "square.sheet.png",
    ]
    saved = Gaze.load(folder / "square.safetensors")
    expected = gaze_video(video, ratio=0.1)
    assert saved.ids.equal(expected.ids)
    assert saved.source == expected.source
    for name in ("overlay", "reconstruction"):
        with av.open(str(folder / f"square.{name}.mp4")) as container:
            times = [float(frame.time) for frame in container.decode(video=0)]
        assert times == pytest.approx([index / 10 for index in range(20)], abs=1e-3)
    with Image.open(folder / "square.sheet.png") as sheet:
        assert sheet.width > 2000
    for words in ("96 x 64", "20 frames", "greedy", "canvas loss", "decode", "square.sheet.png"):
        assert words in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_single_files(video: Path, tmp_path: Path, scheme: str) -> None:
    out = tmp_path / "mine.safetensors"
    assert run("gaze", video, "--out", f"{scheme}{out}", "--loss", 0.05).exit_code == 0
    assert float(Gaze.load(out).losses.max()) <= 0.05


def test_nothing_is_written_unasked(video: Path, tmp_path: Path) -> None:
    assert run("gaze", video).exit_code == 0
    assert list(tmp_path.iterdir()) == [video]


def test_json(video: Path, folder: Path) -> None:
    result = run("gaze", video, "--ratio", 0.1, "--out", folder, "--json")
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    gaze = Gaze.load(folder / "square.safetensors")
    assert report["ok"] is True
    assert report["video"] == str(video)
    assert report["frames"] == 20
    assert report["seconds"] == pytest.approx(2.0)  # ten frames a second: the last one counts too
    assert sum(report["kept"].values()) == gaze.num_patches
    assert report["ratio"] == pytest.approx(gaze.ratio)
    assert report["loss_mean"] == pytest.approx(float(gaze.losses.mean()), abs=1e-6)
    assert report["loss_max"] == pytest.approx(float(gaze.losses.max()), abs=1e-6)
    assert set(report["times"]) == {"decode", "tile", "select", "reconstruct", "render"}
    assert report["files"] == {"out": str(folder / "square.safetensors")}


def test_a_seed_repeats_chance(video: Path, folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = folder / f"{name}.safetensors"
        options = ("--selector", "random", "--ratio", 0.1, "--seed", seed, "--out", out)
        assert run("gaze", video, *options).exit_code == 0
    a, b, c = (Gaze.load(folder / f"{name}.safetensors").ids for name in "abc")
    assert a.equal(b)
    assert not a.equal(c)


def test_range_rate_and_tiles(video: Path) -> None:
    options = ("--start", 0.5, "--end", 1.5, "--fps", 5, "--tiles", "2x1", "--ratio", 0.05)
    report = json.loads(run("gaze", video, *options, "--json").stdout)
    assert report["frames"] == 5
    assert report["tiles"] == [2, 1]
    limited = run("gaze", video, "--tiles", "pad", "--max-tiles", 1, "--json", "--ratio", 0.05)
    assert json.loads(limited.stdout)["tiles"] == [1, 1]


def test_one_bad_video_does_not_stop_the_rest(video: Path, folder: Path, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 5)
    result = run("gaze", video, tmp_path / "none.mp4", other, "--ratio", 0.05, "--out", folder)
    assert result.exit_code == 1
    assert {path.name for path in folder.iterdir()} == {"square.safetensors", "other.safetensors"}
    assert "none.mp4" in result.stderr
    assert "failed" in result.stdout
    assert "2 of 3 videos done, 1 failed" in result.stdout


def test_json_has_a_line_for_each(video: Path, tmp_path: Path) -> None:
    result = run("gaze", tmp_path / "none.mp4", video, "--ratio", 0.05, "--json")
    bad, good = map(json.loads, result.stdout.splitlines())
    assert (bad["ok"], good["ok"]) == (False, True)
    assert "none.mp4" in bad["error"]


def test_when_all_fail_the_input_is_bad(tmp_path: Path) -> None:
    fails("gaze", tmp_path / "a.mp4", tmp_path / "b.mp4")


def test_a_template_names_each_file(video: Path, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 5)
    out = tmp_path / "{name}-gaze.safetensors"
    assert run("gaze", video, other, "--ratio", 0.05, "--out", out).exit_code == 0
    assert (tmp_path / "square-gaze.safetensors").is_file()
    assert (tmp_path / "other-gaze.safetensors").is_file()


def test_a_folder_is_made(video: Path, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 5)
    assert run("gaze", video, other, "--ratio", 0.05, "--out", tmp_path / "new").exit_code == 0
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_equal_names_are_refused_before_any_work(video: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = make_video(tmp_path / "b" / video.name, 5)
    message = fails("gaze", video, twin, "--out", folder)
    assert f"--out of {video}" in message
    assert f"--out of {twin}" in message
    assert list(folder.iterdir()) == []


def test_one_video_twice_is_refused(video: Path, folder: Path) -> None:
    again = video.parent / "results" / ".." / video.name
    message = fails("gaze", video, again, "--out", folder)
    assert f"--out of {video}" in message
    assert f"--out of {again}" in message
    assert str(video) in fails("gaze", video, video, "--out", folder)
    assert run("gaze", video, again, "--ratio", 0.05).exit_code == 0  # nothing clashes


def test_one_name_for_two_kinds_is_refused(video: Path, tmp_path: Path) -> None:
    message = fails("gaze", video, "--sheet", tmp_path / "x.png", "--plot", tmp_path / "x.png")
    assert f"--sheet of {video}" in message
    assert f"--plot of {video}" in message


@pytest.mark.parametrize(
    ("kind", "name", "ending"),
    [
        ("out", "a.txt", ".safetensors"),
        ("out", "a", ".safetensors"),
        ("overlay", "a.png", ".mp4"),
        ("sheet", "a.txt", ".png"),
        ("sheet", "{name}.jpg", ".png"),
        ("reconstruction", "a.avi", ".mp4"),
        ("plot", "a.pdf", ".png"),
    ],
)
def test_endings_are_checked_first(
    kind: str, name: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(name: str) -> None:
        raise AssertionError("no selector should be loaded")

    monkeypatch.setattr("autogaze.selectors.registry.load", never)
    message = fails("gaze", tmp_path / "none.mp4", f"--{kind}", tmp_path / name)
    assert f"--{kind} {tmp_path / name}" in message
    assert ending in message


def test_endings_in_capitals_will_do(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "A.SAFETENSORS"
    assert run("gaze", video, "--ratio", 0.05, "--out", out).exit_code == 0
    assert json.loads(run("info", out, "--json").stdout)["kind"] == "gaze"


def test_one_file_for_several_videos_is_refused(video: Path, tmp_path: Path) -> None:
    message = fails("gaze", video, tmp_path / "b.mp4", "--sheet", tmp_path / "x.png")
    assert f"--sheet {tmp_path / 'x.png'}" in message
    assert "2 videos" in message
    assert "{name}.sheet.png" in message
    assert not (tmp_path / "x.png").exists()
