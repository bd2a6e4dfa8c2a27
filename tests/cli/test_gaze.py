"""The command line: files, tables, exit codes, and what it says of bad input."""

import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from autogaze import gaze_video
from autogaze.cli.app import app
from autogaze.gaze import Gaze
from autogaze.pipeline import GazedChunk, GazeStream
from autogaze.rendering import ContactSheet
from tests.clips import damage, make_video
from tests.disks import small_disk

ALL_KINDS = ("out", "overlay", "sheet", "reconstruction", "plot")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments: object, code: int = 2) -> str:
    """What is said on stderr by a command that ends with `code`, in no more than words."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "square.mp4", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    return path


def everything(folder: Path) -> list[str]:
    """Options that ask for a file of every kind in a folder."""
    return [part for kind in ALL_KINDS for part in (f"--{kind}", str(folder))]


# What comes out.


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


def test_single_files(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    assert run("gaze", video, "--out", out, "--loss", 0.05).exit_code == 0
    assert float(Gaze.load(out).losses.max()) <= 0.05


def test_nothing_is_written_unasked(video: Path, tmp_path: Path) -> None:
    assert run("gaze", video).exit_code == 0
    assert list(tmp_path.iterdir()) == [video]


def test_json(video: Path, folder: Path) -> None:
    result = run("gaze", video, "--ratio", 0.1, "--out", folder, "--json")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    gaze = Gaze.load(folder / "square.safetensors")
    assert told["ok"] is True
    assert told["video"] == str(video)
    assert told["frames"] == 20
    assert told["seconds"] == pytest.approx(2.0)  # ten frames a second: the last one counts too
    assert sum(told["kept"].values()) == gaze.num_patches
    assert told["ratio"] == pytest.approx(gaze.ratio)
    assert told["loss_mean"] == pytest.approx(float(gaze.losses.mean()), abs=1e-6)
    assert told["loss_max"] == pytest.approx(float(gaze.losses.max()), abs=1e-6)
    assert set(told["times"]) == {"decode", "tile", "select", "reconstruct", "render"}
    assert told["files"] == {"out": str(folder / "square.safetensors")}


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
    told = json.loads(run("gaze", video, *options, "--json").stdout)
    assert told["frames"] == 5
    assert told["tiles"] == [2, 1]
    limited = run("gaze", video, "--tiles", "pad", "--max-tiles", 1, "--json", "--ratio", 0.05)
    assert json.loads(limited.stdout)["tiles"] == [1, 1]


# Several videos.


def test_one_bad_video_does_not_stop_the_rest(video: Path, folder: Path, tmp_path: Path) -> None:
    other = make_video(tmp_path / "other.mp4", 5)
    result = run("gaze", video, tmp_path / "none.mp4", other, "--ratio", 0.05, "--out", folder)
    assert result.exit_code == 1
    assert {path.name for path in folder.iterdir()} == {"square.safetensors", "other.safetensors"}
    assert "none.mp4: no such file" in result.stderr
    assert "failed" in result.stdout
    assert "2 of 3 videos done, 1 failed" in result.stdout


def test_json_has_a_line_for_each(video: Path, tmp_path: Path) -> None:
    result = run("gaze", tmp_path / "none.mp4", video, "--ratio", 0.05, "--json")
    bad, good = map(json.loads, result.stdout.splitlines())
    assert (bad["ok"], good["ok"]) == (False, True)
    assert "no such file" in bad["error"]


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
    said = fails("gaze", video, twin, "--out", folder)
    assert f"would be written twice, for {video} and for {twin}" in said
    assert list(folder.iterdir()) == []


def test_one_video_twice_is_refused(video: Path, folder: Path) -> None:
    again = video.parent / "results" / ".." / video.name
    said = fails("gaze", video, again, "--out", folder)
    assert f"the same video is given twice, as {video} and as {again}; once is enough" in said
    assert f"{video} twice" in fails("gaze", video, video, "--out", folder)
    assert run("gaze", video, again, "--ratio", 0.05).exit_code == 0  # nothing clashes


def test_one_name_for_two_kinds_is_refused(video: Path, tmp_path: Path) -> None:
    said = fails("gaze", video, "--sheet", tmp_path / "x.png", "--plot", tmp_path / "x.png")
    assert "would be written twice, by --sheet and by --plot" in said


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
    said = fails("gaze", tmp_path / "none.mp4", f"--{kind}", tmp_path / name)
    assert f"--{kind} {tmp_path / name}: the name must end in {ending}" in said


def test_endings_in_capitals_will_do(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "A.SAFETENSORS"
    assert run("gaze", video, "--ratio", 0.05, "--out", out).exit_code == 0
    assert json.loads(run("info", out, "--json").stdout)["kind"] == "gaze"


def test_one_file_for_several_videos_is_refused(video: Path, tmp_path: Path) -> None:
    said = fails("gaze", video, tmp_path / "b.mp4", "--sheet", tmp_path / "x.png")
    assert "is one file for 2 videos" in said
    assert "{name}.sheet.png" in said
    assert not (tmp_path / "x.png").exists()


# Bad input.


def test_missing_file(tmp_path: Path) -> None:
    assert "none.mp4: no such file" in fails("gaze", tmp_path / "none.mp4")


def test_not_a_video(tmp_path: Path, folder: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("these are words, no pictures")
    assert "notes.mp4: not a video" in fails("gaze", text, *everything(folder))
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "empty.mp4: the file is empty" in fails("gaze", empty)
    assert "is a folder" in fails("gaze", tmp_path)
    assert list(folder.iterdir()) == []


def test_corrupt_stream(tmp_path: Path, folder: Path) -> None:
    path = damage(make_video(tmp_path / "hurt.mp4", 30), frame=20)
    said = fails("gaze", path, "--ratio", 0.05, *everything(folder))
    assert "hurt.mp4: frame 20 cannot be decoded" in said
    assert "--skip-corrupt" in said
    assert list(folder.iterdir()) == []
    result = run("gaze", path, "--ratio", 0.05, "--skip-corrupt", "--out", folder, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["frames"], told["corrupt"]) == (29, 1)
    assert "1 corrupt frame was skipped" in result.stderr
    assert 20 not in Gaze.load(folder / "hurt.safetensors").source.frame_indices


def test_truncated_stream(tmp_path: Path, folder: Path) -> None:
    path = make_video(tmp_path / "cut.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = fails("gaze", path, "--ratio", 0.05, *everything(folder))
    assert "cut.mkv: ends early, at frame" in said
    assert list(folder.iterdir()) == []
    assert run("gaze", path, "--ratio", 0.05, "--skip-corrupt").exit_code == 0


def test_no_frames(tmp_path: Path, video: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "sound.wav: no video stream" in fails("gaze", tmp_path / "sound.wav")
    assert "no frame lies in" in fails("gaze", video, "--start", 99)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ratio", 0), "ratio must lie in (0, 1], got 0"),
        (("--ratio", 1.1), "ratio must lie in (0, 1], got 1.1"),
        (("--ratio", "nan"), "ratio must lie in (0, 1]"),
        (("--loss", -0.1), "loss must be at least 0, got -0.1"),
        (("--selector", "greddy"), "did you mean 'greedy'?); known are greedy, run-length"),
        (("--tiles", "some"), "tiles must be"),
        (("--fps", 0), "fps must be"),
        (("--start", 2, "--end", 1), "start"),
        (("--max-tiles", 0), "max_tiles must be at least 1"),
        (("--selector", "centre", "--loss", 0.1), "centre cannot stop by loss"),
    ],
)
def test_bad_settings(options: tuple[object, ...], words: str, video: Path, folder: Path) -> None:
    assert words in fails("gaze", video, *options, *everything(folder))
    assert list(folder.iterdir()) == []


def test_bad_checkpoints(video: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests.models.tiny import tiny_model

    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    weights = checkpoint / "model.safetensors"
    assert run("gaze", video, "--ratio", 0.2, "--selector", checkpoint).exit_code == 0
    told = json.loads(run("info", checkpoint, "--json").stdout)
    assert (told["kind"], told["selector"]) == ("checkpoint", "learned")

    tensors = load_file(weights)
    name = next(iter(tensors))
    missing = {key: value for key, value in tensors.items() if key != name}
    save_file(missing, weights, {"format": "pt"})
    said = fails("gaze", video, "--selector", checkpoint)
    assert "checkpoint" in said
    assert "missing parameters" in said

    save_file(tensors | {"surprise": tensors[name].clone()}, weights, {"format": "pt"})
    assert "unexpected parameters: surprise" in fails("gaze", video, "--selector", checkpoint)
    weights.unlink()
    assert "cannot be loaded" in fails("gaze", video, "--selector", checkpoint)
    (checkpoint / "config.json").unlink()
    assert "no config.json" in fails("gaze", video, "--selector", checkpoint)


def test_outputs_are_checked_before_the_work(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: GazeStream) -> None:
        raise AssertionError("no frame should be looked at")

    monkeypatch.setattr(GazeStream, "__iter__", never)
    assert "does not exist" in fails("gaze", video, "--out", folder / "no" / "x.safetensors")
    assert "is the input video itself" in fails("gaze", video, "--overlay", video)
    under_a_file = video / "x.safetensors"
    assert "does not exist" in fails("gaze", video, "--out", under_a_file)
    monkeypatch.setattr("os.access", lambda *args, **kwargs: False)
    assert "is not writable" in fails("gaze", video, "--out", folder / "x.safetensors")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_disk_full(kind: str, folder: Path, tmp_path: Path) -> None:
    path = make_video(tmp_path / "wide.mp4", 40, 640, 480)
    limit = 1 if kind == "out" else 16
    with small_disk(limit):
        said = fails("gaze", path, "--ratio", 0.3, f"--{kind}", folder)
    assert str(folder / "wide") in said
    assert "cannot be written" in said
    assert list(folder.iterdir()) == []


def test_disk_full_as_the_system_says_it(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    options = [f"--{kind}={folder}" for kind in ("out", "overlay", "sheet", "reconstruction")]
    said = fails("gaze", video, *options, "--ratio", 0.05)
    assert "square.sheet.png: cannot be written: No space left on device" in said
    assert list(folder.iterdir()) == []


def test_ctrl_c_leaves_nothing(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ContactSheet.add
    calls = []

    def interrupted(self: ContactSheet, chunk: object) -> None:
        calls.append(chunk)
        if len(calls) == 2:
            raise KeyboardInterrupt
        usual(self, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(ContactSheet, "add", interrupted)
    said = fails("gaze", video, "--ratio", 0.05, *everything(folder), code=130)
    assert "stopped" in said
    assert list(folder.iterdir()) == []


def test_ctrl_c_tells_what_was_finished(
    video: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = GazeStream.__iter__

    def interrupted(self: GazeStream) -> Iterator[GazedChunk]:
        if Path(self.path).name == "other.mp4":
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(GazeStream, "__iter__", interrupted)
    other = make_video(tmp_path / "other.mp4", 5)
    videos = (video, tmp_path / "none.mp4", other, tmp_path / "never.mp4")
    result = run("gaze", *videos, "--ratio", 0.05, "--out", folder)
    assert result.exit_code == 130
    assert "square.mp4" in result.stdout
    assert "1 of 4 videos done, 1 failed, 2 not done" in result.stdout
    assert "stopped" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["square.safetensors"]


def test_a_defect_says_so(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ContactSheet, chunk: object) -> None:
        raise RuntimeError("a bolt came loose")

    monkeypatch.setattr(ContactSheet, "add", broken)
    result = run("gaze", video, *everything(folder), "--ratio", 0.05)
    assert result.exit_code == 70
    assert "a bolt came loose" in result.stderr
    assert list(folder.iterdir()) == []


def test_the_plot_extra_is_named(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "autogaze[plot]" in fails("gaze", video, "--plot", folder)
    assert list(folder.iterdir()) == []


# The other commands.


def test_selectors() -> None:
    result = run("selectors")
    assert result.exit_code == 0
    for name in ("greedy", "run-length", "change", "codec", "random", "centre", "default"):
        assert name in result.stdout
    assert "greedy" in json.loads(run("selectors", "--json").stdout)


def test_info(video: Path, folder: Path) -> None:
    run("gaze", video, "--ratio", 0.1, "--out", folder)
    told = json.loads(run("info", folder / "square.safetensors", "--json").stdout)
    assert (told["kind"], told["clips"], told["frames"]) == ("gaze", 1, 20)
    assert told["judge"] == "canvas"
    assert 0 < told["ratio"] <= 0.1
    words = run("info", folder / "square.safetensors").stdout
    assert f"{100 * told['ratio']:.2f} %" in words
    told = json.loads(run("info", video, "--json").stdout)
    assert (told["kind"], told["size"], told["frames"], told["codec"]) == (
        ("video", "96 x 64", 20, "h264")
    )
    assert "96 x 64" in run("info", video).stdout
    assert "no such file" in fails("info", folder / "none")
    assert "not a readable gaze file" in fails("info", rename(video, "x.safetensors"))


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))
