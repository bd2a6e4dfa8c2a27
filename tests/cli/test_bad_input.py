"""Bad input through the command line: what is said, what is left, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from PIL import Image

from autogaze.gaze import Gaze
from tests.cli.test_gaze import ALL_KINDS, everything, fails, run
from tests.clips import damage, make_video, moving_square
from tests.models.tiny import tiny_model


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "square.mp4", 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.mkdir()
    return path


# Files without a picture in them.


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
        ("hollow.avi", no_frames, "not one frame can be decoded (the stream is empty)"),
        ("hollow.mkv", no_frames, "not a video that FFmpeg can read"),
        ("phone.mp4", no_index, "its index (moov) is missing"),
        ("half.jpg", half_a_picture, "frame 0 cannot be decoded"),
    ],
)
def test_files_without_a_picture(
    name: str, make: Callable[[Path], None], words: str, folder: Path, tmp_path: Path
) -> None:
    make(tmp_path / name)
    for options in ((), ("--skip-corrupt",)):
        said = fails("gaze", tmp_path / name, *everything(folder), *options)
        assert f"{name}: {words}" in said
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_still_image_is_a_video_of_one_frame(suffix: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(moving_square(1, 97, 63)[0]).save(path)
    result = run("gaze", path, "--ratio", 0.1, *everything(folder), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["frames"], told["width"], told["height"]) == (1, 97, 63)
    assert told["seconds"] == 0
    assert len(list(folder.iterdir())) == len(ALL_KINDS)
    assert Gaze.load(folder / "photo.safetensors").num_frames == 1
    for kind in ("overlay", "reconstruction"):
        with av.open(str(folder / f"photo.{kind}.mp4")) as container:
            assert len(list(container.decode(video=0))) == 1


# Damage.


def test_every_lost_frame_is_counted(folder: Path, tmp_path: Path) -> None:
    path = make_video(tmp_path / "hurt.mp4", 30)  # a key frame every five
    damage(damage(path, frame=29), frame=14)
    told = json.loads(run("gaze", path, "--ratio", 0.05, "--skip-corrupt", "--json").stdout)
    assert told["corrupt"] == 2
    assert told["frames"] == 28

    cut = make_video(tmp_path / "cut.mkv", 60)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = run("gaze", cut, "--ratio", 0.05, "--skip-corrupt", "--out", folder)
    assert result.exit_code == 0, result.output
    kept = Gaze.load(folder / "cut.safetensors").num_frames
    assert 0 < kept < 60
    lost = 60 - kept
    assert f"cut.mkv: {lost} corrupt frame{'s were' if lost > 1 else ' was'} skipped" in (
        result.stderr
    )


def test_a_bad_video_among_good_ones(video: Path, folder: Path, tmp_path: Path) -> None:
    hurt = damage(make_video(tmp_path / "hurt.mp4", 30), frame=20)
    text = tmp_path / "text.mp4"
    text.write_text("no pictures in here")
    last = make_video(tmp_path / "last.mp4", 4)
    videos = (video, hurt, text, last)
    result = run("gaze", *videos, "--ratio", 0.05, *everything(folder), "--json")
    assert result.exit_code == 1
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["video"], one["ok"]) for one in told] == [
        (str(video), True),
        (str(hurt), False),
        (str(text), False),
        (str(last), True),
    ]
    assert "frame 20 cannot be decoded" in told[1]["error"]
    assert "not a video" in told[2]["error"]
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ratio", -0.5), "ratio must lie in (0, 1], got -0.5"),
        (("--loss", "nan"), "loss must be at least 0, got nan"),
        (("--loss", "inf"), "loss must be at least 0, got inf"),
        (("--tiles", "0x2"), "tiles must be"),
        (("--start", -1), "seconds must be finite and at least 0"),
        (("--fps", "nan"), "fps must be finite"),
        (("--selector", "some/folder/that/is/not"), "known are greedy, run-length"),
    ],
)
def test_settings_out_of_range(
    options: tuple[object, ...], words: str, video: Path, folder: Path
) -> None:
    assert words in fails("gaze", video, *options, *everything(folder))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": "32+100"}, "scale 100 is not divisible by the patch size 16; use 96"),
        ({"scales": "32+48+64"}, "num_vision_tokens_each_frame is 20"),
        ({"scales": "64"}, "num_vision_tokens_each_frame is 20"),
        ({"scales": "thirty"}, "scales must look like '32+64+112+224', got 'thirty'"),
        ({"scales": "64+32"}, "scales must be one or more ascending sides"),
        ({"decode_positions": "backwards"}, "'as_released' or 'sequential', got 'backwards'"),
    ],
)
def test_a_configuration_that_does_not_add_up(
    changes: dict[str, object], words: str, video: Path, folder: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    said = fails("gaze", video, "--selector", checkpoint, *everything(folder))
    assert words in said
    assert str(checkpoint) in said
    assert list(folder.iterdir()) == []


def test_a_damaged_checkpoint(video: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_model().save_pretrained(checkpoint)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{checkpoint}: cannot be loaded" in fails("gaze", video, "--selector", checkpoint)
    (checkpoint / "config.json").write_text("{ not JSON")
    assert f"{checkpoint}: cannot be loaded" in fails("gaze", video, "--selector", checkpoint)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--selector", "greddy"), "unknown selector 'greddy'; known are greedy, run-length"),
        (("--dtype", "int8"), "dtype must be one of float32, bfloat16, got 'int8'"),
        (("--device", "toaster"), "device must be cpu or cuda, got 'toaster'"),
        (("--device", "cuda"), "there is no CUDA device here"),
    ],
)
def test_bench_settings(
    options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert words in fails("bench", "select", *options)


# Places that cannot be written to.


def test_a_file_that_cannot_be_renamed(
    video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("autogaze.utils.files.os.replace", refused)
    said = fails("gaze", video, "--ratio", 0.05, "--sheet", folder)
    assert "square.sheet.png: cannot be written: Operation not permitted" in said
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_not_writable(video: Path, folder: Path) -> None:
    folder.chmod(0o500)
    assert "is not writable" in fails("gaze", video, "--out", folder / "x.safetensors")


# Being stopped.

COMMAND = (
    # Shells start background jobs with Ctrl-C ignored; here it must count.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from autogaze.cli.app import main; main()"
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_job_leaves_nothing(
    stop: signal.Signals, code: int, folder: Path, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "long.mp4", 300)
    options = [*everything(folder), "--ratio", "0.5", "--tiles", "6x4"]
    job = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "gaze", str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(folder.iterdir()) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(folder.iterdir()), "it should be writing by now"
        job.send_signal(stop)
        said = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == code, said
    assert "Traceback" not in said[1]
    assert list(folder.iterdir()) == []
