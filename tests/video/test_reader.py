"""The reader: frames of files of every kind."""

from dataclasses import FrozenInstanceError
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from autogaze.errors import VideoError
from autogaze.video.reader import Video
from tests.video.remux import remux


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


def test_fragments_are_no_fewer_frames(folder, encode):
    """The header counts those before the first fragment."""
    for flags in ("frag_every_frame", "frag_keyframe", "frag_keyframe+empty_moov"):
        path = encode(folder / f"{flags}.mp4", g="6", container_options={"movflags": flags})
        assert Video(path).info.num_frames == 20


@pytest.mark.parametrize("shift", [0, 0.5, 20])
def test_a_late_start_makes_no_flv_shorter(folder, encode, shift):
    whole = encode(folder / "for_flv.mp4", bf="2", g="6")
    info = Video(remux(whole, folder / f"late{shift}.flv", Fraction(shift))).info
    assert (info.num_frames, info.fps) == (20, 10)
    assert info.duration == pytest.approx(2, abs=0.01)


def test_the_ticks_of_a_clock_are_no_frame_rate(folder, encode, picture):
    Image.fromarray(picture(0)).save(folder / "one.ico", sizes=[(64, 48)], bitmap_format="bmp")
    video = Video(folder / "one.ico")
    assert len(list(video.frames())) == 1
    assert (video.info.fps, video.end) == (None, pytest.approx(0.04))
    tape = encode(
        folder / "tape.dv",
        [picture(number, 720, 576) for number in range(4)],
        codec="dvvideo",
        fps=25,
    )
    assert (Video(tape).info.fps, Video(tape).info.num_frames) == (25, 4)


def test_frames_can_be_read_again_and_left_early(plain):
    video = Video(plain)
    first = next(video.frames())
    assert len(list(video.frames())) == 20
    np.testing.assert_array_equal(first.pixels, next(video.frames()).pixels)


def test_a_loop_within_a_loop_says_only_of_itself_that_it_gave_none(plain):
    video = Video(plain)
    frames = video.frames(last=1)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(VideoError, match="no frame lies"):
        next(video.frames(start=100))
    assert list(frames) == []


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
def test_transparency_is_composited_on_black(folder, encode, picture, name, codec, pixel_format):
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    frames = [np.concatenate([picture(number), alpha], axis=2) for number in range(4)]
    path = encode(folder / name, frames, codec=codec, pixel_format=pixel_format)
    decoded = list(Video(path).frames())
    assert len(decoded) == len(frames)
    for frame in decoded:
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


def test_missing_timestamps_count_by_the_rate(folder, encode):
    path = encode(folder / "raw.h264", bf="0")
    frames = list(Video(path).frames())
    assert len(frames) == 20
    steps = np.diff([frame.timestamp for frame in frames])
    assert (steps > 0).all()
    assert steps == pytest.approx(steps[0])
