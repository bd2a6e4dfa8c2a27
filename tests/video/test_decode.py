"""What `Video` makes of files of every kind."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import open_container
from autogaze.video.reader import Video


def test_info_and_frames(plain, picture):
    video = Video(plain)
    info = video.info
    assert (info.width, info.height, info.rotation) == (64, 48, 0)
    assert (info.fps, info.duration, info.num_frames) == (10, 2.0, 20)
    assert (info.codec, info.pixel_format, info.is_image) == ("h264", "yuv420p", False)
    assert "64 x 48" in repr(video)

    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(20) / 10)
    for frame in frames:
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.dtype == np.uint8
        assert np.abs(frame.pixels.astype(int) - picture(frame.index)).mean() < 6
        assert frame.motion is None
    with pytest.raises(FrozenInstanceError):
        frames[0].index = 3


def test_frames_can_be_read_again_and_left_early(plain):
    video = Video(plain)
    first = next(video.frames())
    assert len(list(video.frames())) == 20
    np.testing.assert_array_equal(first.pixels, next(video.frames()).pixels)


def test_variable_frame_rate_keeps_its_timestamps(folder, encode):
    times = [0, 100, 150, 400, 1000]
    path = encode(
        folder / "vfr.mp4",
        [np.full((48, 64, 3), 30 * k, np.uint8) for k in range(5)],
        milliseconds=times,
    )
    frames = list(Video(path).frames())
    assert [round(1000 * frame.timestamp) for frame in frames] == times


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(folder, encode, picture, degrees):
    path = encode(folder / f"rotated{degrees}.mp4", rotation=degrees)
    video = Video(path)
    upright = np.rot90(picture(0), degrees // 90)
    assert video.info.rotation == degrees
    assert (video.info.height, video.info.width) == upright.shape[:2]
    pixels = next(video.frames()).pixels
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 6


def test_mirrored_display_matrix(folder, picture):
    path = folder / "mirrored.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0))))
        container.mux(stream.encode(None))
    pixels = next(Video(path).frames()).pixels
    assert np.abs(pixels.astype(int) - picture(0)[:, ::-1]).mean() < 6


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 48)])
def test_odd_sizes(folder, encode, picture, size):
    width, height = size
    frames = [picture(number, 64, 48)[:height, :width] for number in range(3)]
    path = encode(folder / f"odd{width}.mkv", frames, codec="ffv1", pixel_format="bgr0")
    video = Video(path)
    assert (video.info.width, video.info.height) == size
    for frame, expected in zip(video.frames(), frames, strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mov", "qtrle", "argb"), ("a.apng", "apng", "rgba"), ("a.webm", "libvpx-vp9", "yuva420p")],
)
def test_transparency_lies_on_black(folder, encode, picture, name, codec, pixel_format):
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    frames = [np.concatenate([picture(number), alpha], axis=2) for number in range(4)]
    path = encode(folder / name, frames, codec=codec, pixel_format=pixel_format)
    for frame in Video(path).frames():
        assert frame.pixels[:, :30].max() < 8
        difference = np.abs(frame.pixels.astype(int) - picture(frame.index))[:, 34:]
        assert difference.mean() < 12


@pytest.mark.parametrize(
    "pixel_format", ["gray", "gray10le", "yuv420p10le", "yuv444p12le", "gbrp16le"]
)
def test_grey_and_deep_pixels(folder, encode, pixel_format):
    frames = [np.full((48, 64, 3), level, np.uint8) for level in (20, 120, 220)]
    path = encode(folder / f"{pixel_format}.mkv", frames, codec="ffv1", pixel_format=pixel_format)
    video = Video(path)
    assert video.info.pixel_format == pixel_format
    for frame, expected in zip(video.frames(), frames, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).max() <= 2


def test_colours_follow_the_streams_matrix(folder):
    from autogaze.video.writer import VideoWriter

    red = np.zeros((48, 64, 3), np.uint8)
    red[:] = (200, 40, 90)
    with VideoWriter(folder / "red.mp4", 10.0, 64, 48) as writer:
        writer.write(red)
    pixels = next(Video(folder / "red.mp4").frames()).pixels
    assert np.abs(pixels.astype(int) - red).max() <= 4


def test_one_frame_video(folder, encode, picture):
    path = encode(folder / "single.mp4", [picture(0)])
    (frame,) = Video(path).frames()
    assert (frame.index, frame.timestamp) == (0, 0.0)
    (frame,) = Video(path).frames(fps=100.0)
    assert frame.index == 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_still_image_is_a_video_of_one_frame(folder, picture, suffix):
    path = folder / f"still.{suffix}"
    Image.fromarray(picture(0)).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    video = Video(path)
    assert video.info.is_image
    assert (video.info.width, video.info.height, video.info.num_frames) == (64, 48, 1)
    (frame,) = video.frames()
    assert (frame.index, frame.timestamp) == (0, 0.0)
    assert np.abs(frame.pixels.astype(int) - picture(0)).mean() < 6
    assert frame.pixels.flags.writeable  # like a video's


def test_the_first_of_several_pictures_in_a_jpeg(folder, picture):
    # Phones write such files: a JPEG that Pillow renames to MPO while opening it.
    first, second = Image.fromarray(picture(0)), Image.fromarray(picture(9))
    first.save(folder / "phone.jpg", format="MPO", save_all=True, append_images=[second])
    video = Video(folder / "phone.jpg")
    assert (video.info.codec, video.info.num_frames) == ("mpo", 1)
    (frame,) = video.frames()
    assert np.abs(frame.pixels.astype(int) - picture(0)).mean() < 6


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


def test_missing_timestamps_count_by_the_rate(folder, encode):
    path = encode(folder / "raw.h264", bf="0")
    frames = list(Video(path).frames())
    assert len(frames) == 20
    steps = np.diff([frame.timestamp for frame in frames])
    assert (steps > 0).all()
    assert steps == pytest.approx(steps[0])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_not_a_video(folder):
    cases = {
        folder: "is a folder",
        folder / "nothing.mp4": "no such file",
        write(folder / "empty.mp4", b""): "is empty",
        write(folder / "noise.mp4", bytes(range(256)) * 20): "not a video",
        write(folder / "text.txt", b"hello\n" * 50): "not a video",
    }
    for path, cause in cases.items():
        with pytest.raises(VideoError, match=cause) as caught:
            Video(path)
        assert str(path) in str(caught.value)


def test_sound_only_and_subtitles_have_no_video_stream(folder):
    path = folder / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream in it, only audio"):
        Video(path)


def test_animated_webp_says_what_to_do(folder, picture):
    images = [Image.fromarray(picture(number)) for number in range(3)]
    images[0].save(folder / "moving.webp", save_all=True, append_images=images[1:])
    with pytest.raises(VideoError, match="animated WebP"):
        Video(folder / "moving.webp")
    images[0].save(folder / "moving.gif", save_all=True, append_images=images[1:], duration=100)
    assert len(list(Video(folder / "moving.gif").frames())) == 3


def test_unreadable_folder_is_no_container(folder):
    with pytest.raises(VideoError):
        open_container(folder)


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
def test_a_broken_image_header_is_the_files_fault(folder, name, content):
    with pytest.raises(VideoError, match=name):
        list(Video(write(folder / name, content)).frames())


def test_a_picture_too_large_to_be_one(folder, monkeypatch, picture):
    Image.fromarray(picture(0)).save(folder / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(VideoError, match=r"bomb\.png: .*pixels"):
        Video(folder / "bomb.png")
