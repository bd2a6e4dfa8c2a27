"""`autogaze gaze` and bad input: how it ends, which value is named, what is left."""

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from PIL import Image

from autogaze.gaze import Gaze
from autogaze.pipeline import GazeStream
from tests.cli.commands import ALL_KINDS, everything, fails, run
from tests.clips import damage, make_video, moving_square
from tests.disks import small_disk
from tests.models.autogaze.tiny import tiny_model

# Files that are no videos, or damaged ones.


def test_missing_file(tmp_path: Path) -> None:
    assert "none.mp4" in fails("gaze", tmp_path / "none.mp4")


def test_not_a_video(tmp_path: Path, folder: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("these are words, no pictures")
    assert "notes.mp4" in fails("gaze", text, *everything(folder))
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "empty.mp4" in fails("gaze", empty)
    assert str(tmp_path) in fails("gaze", tmp_path)
    assert list(folder.iterdir()) == []


def test_corrupt_stream(tmp_path: Path, folder: Path) -> None:
    path = damage(make_video(tmp_path / "hurt.mp4", 30), frame=20)
    message = fails("gaze", path, "--ratio", 0.05, *everything(folder))
    assert "hurt.mp4: frame 20" in message
    assert "--skip-corrupt" in message
    assert list(folder.iterdir()) == []
    result = run("gaze", path, "--ratio", 0.05, "--skip-corrupt", "--out", folder, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["frames"], report["corrupt"]) == (29, 1)
    assert "hurt.mp4: 1 corrupt frame" in result.stderr
    assert 20 not in Gaze.load(folder / "hurt.safetensors").source.frame_indices


def test_truncated_stream(tmp_path: Path, folder: Path) -> None:
    path = make_video(tmp_path / "cut.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = fails("gaze", path, "--ratio", 0.05, *everything(folder))
    assert "cut.mkv" in message
    assert list(folder.iterdir()) == []
    assert run("gaze", path, "--ratio", 0.05, "--skip-corrupt").exit_code == 0


def test_no_frames(tmp_path: Path, video: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "sound.wav" in fails("gaze", tmp_path / "sound.wav")
    assert "99" in fails("gaze", video, "--start", 99)


def no_frames(path: Path) -> None:
    """A header that promises a video, and nothing after it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def no_index(path: Path) -> None:
    """A recording that was never finished."""
    make_video(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_a_picture(path: Path) -> None:
    Image.fromarray(moving_square(1, 96, 64)[0]).save(path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("hollow.avi", no_frames, "not one frame"),
        ("hollow.mkv", no_frames, "not a video"),
        ("phone.mp4", no_index, "its index (moov)"),
        ("half.jpg", half_a_picture, "frame 0"),
    ],
)
def test_files_without_a_picture(
    name: str, make: Callable[[Path], None], words: str, folder: Path, tmp_path: Path
) -> None:
    make(tmp_path / name)
    for options in ((), ("--skip-corrupt",)):
        message = fails("gaze", tmp_path / name, *everything(folder), *options)
        assert f"{name}: {words}" in message
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_still_image_is_a_video_of_one_frame(suffix: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(moving_square(1, 97, 63)[0]).save(path)
    result = run("gaze", path, "--ratio", 0.1, *everything(folder), "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["frames"], report["width"], report["height"]) == (1, 97, 63)
    assert report["seconds"] == 0
    assert len(list(folder.iterdir())) == len(ALL_KINDS)
    assert Gaze.load(folder / "photo.safetensors").num_frames == 1
    for kind in ("overlay", "reconstruction"):
        with av.open(str(folder / f"photo.{kind}.mp4")) as container:
            assert len(list(container.decode(video=0))) == 1


def test_every_lost_frame_is_counted(folder: Path, tmp_path: Path) -> None:
    path = make_video(tmp_path / "hurt.mp4", 30)  # a key frame every five
    damage(damage(path, frame=29), frame=14)
    report = json.loads(run("gaze", path, "--ratio", 0.05, "--skip-corrupt", "--json").stdout)
    assert report["corrupt"] == 2
    assert report["frames"] == 28

    cut = make_video(tmp_path / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = run("gaze", cut, "--ratio", 0.05, "--skip-corrupt", "--out", folder)
    assert result.exit_code == 0, result.output
    kept = Gaze.load(folder / "cut.safetensors").num_frames
    assert 0 < kept < 60
    corrupt = 60 - kept
    assert f"cut.mkv: {corrupt} corrupt frame" in result.stderr


def test_a_bad_video_among_good_ones(video: Path, folder: Path, tmp_path: Path) -> None:
    hurt = damage(make_video(tmp_path / "hurt.mp4", 30), frame=20)
    text = tmp_path / "text.mp4"
    text.write_text("no pictures in here")
    last = make_video(tmp_path / "last.mp4", 4)
    videos = (video, hurt, text, last)
    result = run("gaze", *videos, "--ratio", 0.05, *everything(folder), "--json")
    assert result.exit_code == 1
    report = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["video"], one["ok"]) for one in report] == [
        (str(video), True),
        (str(hurt), False),
        (str(text), False),
        (str(last), True),
    ]
    assert "frame 20" in report[1]["error"]
    assert "text.mp4" in report[2]["error"]
    names = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert names == {"square", "last"}
    assert len(list(folder.iterdir())) == 2 * len(ALL_KINDS)


def test_results_from_before_outlive_a_failure(folder: Path, tmp_path: Path) -> None:
    hurt = damage(make_video(tmp_path / "hurt.mp4", 30), frame=20)
    before = folder / "hurt.safetensors"
    before.write_bytes(b"from a better day")
    fails("gaze", hurt, "--ratio", 0.05, "--out", folder)
    assert [path.name for path in folder.iterdir()] == [before.name]
    assert before.read_bytes() == b"from a better day"


# Settings and checkpoints.


def test_bad_checkpoints(video: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests.models.autogaze.tiny import tiny_model

    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    weights = checkpoint / "model.safetensors"
    assert run("gaze", video, "--ratio", 0.2, "--selector", checkpoint).exit_code == 0
    report = json.loads(run("info", checkpoint, "--json").stdout)
    assert (report["kind"], report["selector"]) == ("checkpoint", "learned")

    # Copies: older safetensors map the file, which is written anew.
    tensors = {key: value.clone() for key, value in load_file(weights).items()}
    name = next(iter(tensors))
    missing = {key: value for key, value in tensors.items() if key != name}
    save_file(missing, weights, {"format": "pt"})
    message = fails("gaze", video, "--selector", checkpoint)
    assert "checkpoint" in message
    assert name in message

    save_file(tensors | {"surprise": tensors[name].clone()}, weights, {"format": "pt"})
    assert "surprise" in fails("gaze", video, "--selector", checkpoint)
    weights.unlink()
    message = fails("gaze", video, "--selector", checkpoint)
    assert str(checkpoint) in message
    assert "model.safetensors" in message
    (checkpoint / "config.json").unlink()
    assert "no config.json" in fails("gaze", video, "--selector", checkpoint)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--ratio", 0), ("ratio", "got 0")),
        (("--ratio", 1.1), ("ratio", "1.1")),
        (("--ratio", "nan"), ("ratio", "nan")),
        (("--loss", -0.1), ("loss", "-0.1")),
        (("--selector", "greddy"), ("'greddy'", "'greedy'", "run-length")),
        (("--tiles", "some"), ("tiles", "some")),
        (("--fps", 0), ("fps", "0")),
        (("--start", 2, "--end", 1), ("start", "2", "1")),
        (("--max-tiles", 0), ("max_tiles", "0")),
        (("--seed", 2**64), ("seed", str(2**64))),
        (("--selector", "centre", "--loss", 0.1), ("centre", "loss")),
        (("--ratio", -0.5), ("ratio", "-0.5")),
        (("--loss", "nan"), ("loss", "nan")),
        (("--loss", "inf"), ("loss", "inf")),
        (("--tiles", "0x2"), ("tiles", "0x2")),
        (("--start", -1), ("-1",)),
        (("--fps", "nan"), ("fps", "nan")),
        (("--selector", "some/folder/that/is/not"), ("some/folder/that/is/not", "run-length")),
    ],
)
def test_bad_settings(
    options: tuple[object, ...], values: tuple[str, ...], video: Path, folder: Path
) -> None:
    message = fails("gaze", video, *options, *everything(folder))
    assert all(value in message for value in values), message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"scales": "32+100"}, ("100", "16", "96")),
        ({"scales": "32+48+64"}, ("num_vision_tokens_each_frame",)),
        ({"scales": "64"}, ("num_vision_tokens_each_frame",)),
        ({"scales": "thirty"}, ("'thirty'",)),
        ({"scales": "64+32"}, ("(64, 32)",)),
        ({"decode_positions": "backwards"}, ("'backwards'",)),
    ],
)
def test_a_configuration_that_does_not_add_up(
    changes: dict[str, object], values: tuple[str, ...], video: Path, folder: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    message = fails("gaze", video, "--selector", checkpoint, *everything(folder))
    named = re.findall(r"[\w.'/]+|\(.*?\)", message.replace(str(checkpoint), ""))
    assert all(value in named for value in values), message
    assert str(checkpoint) in message
    assert list(folder.iterdir()) == []


def test_a_damaged_checkpoint(video: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights) in fails("gaze", video, "--selector", checkpoint)
    (checkpoint / "config.json").write_text("{ not JSON")
    assert f"{checkpoint / 'config.json'}: " in fails("gaze", video, "--selector", checkpoint)


# Places that cannot be written to.


def test_outputs_are_checked_before_the_work(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: GazeStream) -> None:
        raise AssertionError("no frame should be looked at")

    monkeypatch.setattr(GazeStream, "__iter__", never)
    missing = folder / "no" / "x.safetensors"
    assert str(missing) in fails("gaze", video, "--out", missing)
    assert str(video) in fails("gaze", video, "--overlay", video)
    for kind in ALL_KINDS:  # as "$unset" gives it
        assert f"--{kind}" in fails("gaze", video, f"--{kind}", "")
    under_a_file = video / "x.safetensors"
    assert str(under_a_file) in fails("gaze", video, "--out", under_a_file)
    monkeypatch.setattr("os.access", lambda *args, **kwargs: False)
    assert str(folder) in fails("gaze", video, "--out", folder / "x.safetensors")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_disk_full(kind: str, folder: Path, tmp_path: Path) -> None:
    path = make_video(tmp_path / "wide.mp4", 40, 640, 480, preset="ultrafast")
    limit = 1 if kind == "out" else 16
    with small_disk(limit):
        message = fails("gaze", path, "--ratio", 0.3, "--tiles", "one", f"--{kind}", folder)
    assert str(folder / "wide") in message
    assert list(folder.iterdir()) == []


def test_disk_full_as_the_system_says_it(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    options = [f"--{kind}={folder}" for kind in ("out", "overlay", "sheet", "reconstruction")]
    message = fails("gaze", video, *options, "--ratio", 0.05)
    assert "square.sheet.png" in message
    assert "No space left on device" in message
    assert list(folder.iterdir()) == []


def test_the_plot_extra_is_named(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "autogaze[plot]" in fails("gaze", video, "--plot", folder)
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_renamed(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("autogaze.utils.files.os.replace", refused)
    message = fails("gaze", video, "--ratio", 0.05, "--sheet", folder)
    assert "square.sheet.png" in message
    assert "Operation not permitted" in message
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_not_writable(video: Path, folder: Path) -> None:
    folder.chmod(0o500)
    assert str(folder) in fails("gaze", video, "--out", folder / "x.safetensors")


# Devices and precisions.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--device", "toaster"], "toaster"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--dtype", "int8", "--selector", "learned"], "int8"),
        (["--dtype", "float16"], "float16"),  # greedy has no model
    ],
)
def test_device_and_precision(options: list[str], named: str, tmp_path: Path) -> None:
    assert named in fails("gaze", make_video(tmp_path / "square.mp4", 2), *options)
