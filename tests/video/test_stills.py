"""Still images as videos of one frame."""

import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.reader import Video
from tests.video.heif import write_grid


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "avif"])
def test_still_image_is_a_video_of_one_frame(folder, picture, suffix):
    if f".{suffix}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow writes no {suffix}")
    path = folder / f"still.{suffix}"
    Image.fromarray(picture(0)).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    video = Video(path)
    assert video.info.is_image
    assert (video.info.width, video.info.height, video.info.num_frames) == (64, 48, 1)
    (frame,) = video.frames()
    assert (frame.index, frame.timestamp) == (0, 0.0)
    assert np.abs(frame.pixels.astype(int) - picture(0)).mean() < 6
    assert frame.pixels.flags.writeable  # like a video's
    assert video.end == pytest.approx(0.04)  # whatever the format


@pytest.mark.parametrize(
    ("suffix", "saved"),
    [("mjpeg", "jpeg"), ("MJPG", "jpeg"), ("ppm", "ppm"), ("pgm", "ppm"), ("pbm", "ppm")],
)
@pytest.mark.parametrize("count", [1, 3])
def test_pictures_one_after_the_other_are_frames(tmp_path, picture, suffix, saved, count):
    mode = {"pgm": "L", "pbm": "1"}.get(suffix, "RGB")
    path = tmp_path / f"stream.{suffix}"
    pictures = [Image.fromarray(picture(number)).convert(mode) for number in range(count)]
    with path.open("wb") as file:
        for one in pictures:
            one.save(file, format=saved)
    video = Video(path)
    frames = list(video.frames())
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(count) / 25)
    assert video.count_frames() == count
    assert video.end == pytest.approx(count / 25)
    for frame, one in zip(frames, pictures, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(one.convert("RGB"))).mean() < 6


def test_a_wide_grey_picture_is_not_taken_for_two(tmp_path):
    path = tmp_path / "wide.pgm"
    path.write_bytes(b"P5 # a comment\n4 2\n65535\n" + b"P5" * 8)
    (frame,) = Video(path).frames()
    assert (frame.pixels == round(0x5035 / 257)).all()


def test_the_first_of_several_pictures_in_a_jpeg(folder, picture):
    # Phones write such files: a JPEG that Pillow renames to MPO while opening it.
    first, second = Image.fromarray(picture(0)), Image.fromarray(picture(9))
    first.save(folder / "phone.jpg", format="MPO", save_all=True, append_images=[second])
    video = Video(folder / "phone.jpg")
    assert (video.info.codec, video.info.num_frames) == ("mpo", 1)
    (frame,) = video.frames()
    assert np.abs(frame.pixels.astype(int) - picture(0)).mean() < 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_pictures_of_no_duration_come_one_after_the_other(tmp_path, suffix):
    path = tmp_path / f"animated.{suffix}"
    first, *others = [Image.new("RGB", (8, 8), (60 * number, 0, 0)) for number in range(5)]
    first.save(path, save_all=True, append_images=others, duration=[100, 0, 0, 300, 50])
    video = Video(path)
    times = [frame.timestamp for frame in video.frames()]
    assert len(times) == 5
    assert all(before < after for before, after in pairwise([*times, video.end]))


def test_pillow_need_not_have_opened_anything_before(folder, picture):
    paths = [folder / f"first.{suffix}" for suffix in ("jpg", "png", "webp", "tiff")]
    for path in paths:
        Image.fromarray(picture(0)).save(path)
    code = (
        "import sys; from pathlib import Path; from autogaze.video.stills import still_header;"
        "print(*(still_header(Path(path)).format for path in sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["jpeg", "png", "webp", "tiff"]


def test_still_image_orientation_and_modes(folder, picture):
    image = Image.fromarray(picture(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter, clockwise
    image.save(folder / "turned.png", exif=exif)
    video = Video(folder / "turned.png")
    assert (video.info.width, video.info.height, video.info.rotation) == (48, 64, 270)
    np.testing.assert_array_equal(next(video.frames()).pixels, np.rot90(picture(0), 3))

    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    pixels = next(Video(folder / "deep.png").frames()).pixels
    assert np.abs(pixels[..., 0].astype(int) - deep / 257).max() <= 1

    half = np.full((48, 64, 4), 200, np.uint8)
    half[..., 3] = 128
    Image.fromarray(half).save(folder / "half.png")
    assert set(np.unique(next(Video(folder / "half.png").frames()).pixels)) == {100}


def test_truncated_image(folder, picture):
    path = folder / "whole.jpg"
    Image.fromarray(picture(0)).save(path)
    data = path.read_bytes()
    with pytest.raises(CorruptVideoError, match="frame 0"):
        list(Video(write(folder / "half.jpg", data[:-100])).frames())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("header.ppm", b"P6\n64 x48\n255\n" + bytes(9216)),
        ("number.ppm", b"P6\n" + b"6" * 40 + b" 48\n255\n"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"),
        ("size.tiff", b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0"),
        ("nothing.bmp", b"BM" + bytes(60)),
    ],
)
def test_a_broken_image_header_is_a_video_error(folder, name, content):
    with pytest.raises(VideoError, match=name):
        list(Video(write(folder / name, content)).frames())


def test_a_picture_too_large_to_be_one(folder, monkeypatch, picture):
    Image.fromarray(picture(0)).save(folder / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(VideoError, match=r"bomb\.png: .*pixels"):
        Video(folder / "bomb.png")


@pytest.mark.parametrize("size", [(256, 256), (128, 384)])
def test_a_grid_of_heic_tiles_is_never_taken_for_its_first_tile(folder, monkeypatch, size):
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([x * 255 // size[1], y * 255 // size[0], 0 * x + 128], -1).astype(np.uint8)
    path = write_grid(folder / f"{size[0]}.heic", pixels)
    if find_spec("pillow_heif") is not None:
        (frame,) = Video(path).frames()
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 6
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(VideoError, match=rf"{size[0]}\.heic: .*autogaze\[heif\]"):
        Video(path)
