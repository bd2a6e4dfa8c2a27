"""Ranges and rates: the right frames, with the right numbers, also after a seek."""

import math
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.errors import VideoError
from autogaze.video.motion import MotionField
from autogaze.video.reader import Video
from autogaze.video.timestamps import ROUNDING, FrameRange, Picture, sample


def shown(index: int, timestamp: float) -> Picture:
    """A picture 0.1 s long, in which everything moved one pixel."""
    motion = MotionField(np.ones((1, 1), np.float32), 8, 8)
    return Picture(index, timestamp, 0.1, av.VideoFrame(8, 8, "gray"), motion)


KINDS = {
    "steady.mp4": ("libx264", {"g": "6", "bf": "2"}),
    "open_gop.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=6:bframes=2"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=6"}),
    "steady.mkv": ("libx264", {"g": "6"}),
    "steady.ts": ("libx264", {"g": "6"}),
    "steady.avi": ("libx264", {"g": "6"}),
    "steady.mpg": ("mpeg2video", {"g": "6", "bf": "2"}),
    "steady.webm": ("libvpx", {"g": "6"}),
}


VARIABLE = [name for name in KINDS if name.endswith(("mp4", "mkv", "webm"))]
"""Those whose containers have variable rates."""


@pytest.mark.parametrize(
    ("name", "variable"), [*((name, False) for name in KINDS), *((name, True) for name in VARIABLE)]
)
def test_ranges_equal_slices(folder, encode, picture, name, variable):
    codec, options = KINDS[name]
    times = np.random.default_rng(1).integers(20, 150, 40).cumsum()
    path = encode(
        folder / f"{variable}_{name}",
        [picture(number) for number in range(40)],
        codec=codec,
        fps=25,
        milliseconds=[int(time - times[0]) for time in times] if variable else None,
        **options,
    )
    video = Video(path)
    full = list(video.frames())
    assert [frame.index for frame in full] == list(range(40))
    for first, last in [(0, 39), (1, 3), (7, 7), (20, 33), (38, 39)]:
        end = full[last + 1].timestamp if last < 39 else None
        by_time = list(video.frames(start=full[first].timestamp, end=end))
        by_number = list(video.frames(first=first, last=last))
        for frames in (by_time, by_number):
            assert [frame.index for frame in frames] == list(range(first, last + 1))
            for frame in frames:
                assert frame.timestamp == full[frame.index].timestamp
                np.testing.assert_array_equal(frame.pixels, full[frame.index].pixels)


def test_a_late_start_skips_the_decoding_before(folder, encode, picture, monkeypatch):
    from autogaze.video.container import OpenStream

    frames = [picture(number % 20) for number in range(200)]
    video = Video(encode(folder / "long.mp4", frames, g="10"))
    decoded = []
    decode = OpenStream.decode

    def counting(self):
        for item in decode(self):
            decoded.append(item)
            yield item

    monkeypatch.setattr(OpenStream, "decode", counting)
    (frame,) = video.frames(first=195, last=195)
    assert frame.index == 195
    assert len(decoded) < 30


@pytest.mark.parametrize("name", ["plain", "irregular"])
@pytest.mark.parametrize("fps", [1.0, 3.0, 4.5, 10.0, 1000.0])
@pytest.mark.parametrize("start", [None, 0.55])
def test_sampled_frames_are_the_ones_on_screen(request, name, fps, start):
    video = Video(request.getfixturevalue(name))
    full = list(video.frames())
    stamps = [frame.timestamp for frame in full]
    frames = list(video.frames(fps=fps, start=start))
    expected = []
    for k in range(math.ceil((stamps[-1] + 0.099 - (start or 0)) * fps)):
        instant = (start or 0) + k / fps
        on_screen = max(i for i, stamp in enumerate(stamps) if stamp <= instant + 5e-4)
        if on_screen not in expected:
            expected.append(on_screen)
    assert [frame.index for frame in frames] == expected
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, full[frame.index].pixels)


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 500), min_size=1, max_size=30),
    fps=st.floats(0.2, 200),
    start=st.floats(0, 2),
    length=st.none() | st.floats(0.01, 5),
)
def test_sampling_takes_the_nearest_frame_not_later(gaps, fps, start, length):
    stamps = [time / 1000 for time in np.cumsum([0, *gaps]).tolist()]
    pictures = [shown(index, stamp) for index, stamp in enumerate(stamps)]
    end = None if length is None else start + length
    chosen = list(sample(pictures, FrameRange(start, end, fps=fps), slack=1e-6))
    times = [picture.timestamp for picture in chosen]
    assert all(a < b for a, b in pairwise(times))
    # Every chosen frame is on screen at an instant, and no instant's frame is left out.
    stop = min(stamps[-1] + 0.1 - 2e-6, math.inf if end is None else end - 1e-6)
    wanted = set()
    for k in range(math.ceil((stop - start) * fps) + 1):
        instant = start + k / fps
        if instant < stop:
            wanted.add(max(i for i, stamp in enumerate(stamps) if stamp <= instant + 1e-6))
    borderline = {
        i
        for i, s in enumerate(stamps)
        if any(abs(s - 1e-6 - (start + k / fps)) < 1e-7 for k in (round((s - start) * fps),))
    }
    assert {picture.index for picture in chosen} ^ wanted <= borderline
    # What was left out is handed on to the next frame given.
    for before, after in pairwise(chosen):
        assert after.motion.lengths.item() == after.index - before.index


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("asf", "libx264"),
        ("wmv", "mpeg2video"),
        ("asf", "wmv2"),
        ("mxf", "libx264"),
        ("mxf", "mpeg2video"),
    ],
)
def test_a_seek_finds_the_right_numbers(suffix, codec, encode, picture, tmp_path):
    """Where FFmpeg gives the first packet after a seek the time of another, or has no display times."""
    frames = [picture(number) for number in range(40)]
    bframes = {} if codec == "wmv2" else {"bf": "2"}
    path = encode(tmp_path / f"file.{suffix}", frames, codec=codec, fps=25, g="8", **bframes)
    full = list(Video(path).frames())
    if suffix == "mxf":
        assert [frame.timestamp for frame in full] == pytest.approx([n / 25 for n in range(40)])
    for number in (1, 9, 22, 39):
        first, *_ = Video(path).frames(start=full[number].timestamp)
        assert (first.index, first.timestamp) == (number, full[number].timestamp)
        np.testing.assert_array_equal(first.pixels, full[number].pixels)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("m1v", "mpeg1video"), ("m2v", "mpeg2video"), ("h263", "h263"), ("h264", "libx264")],
)
def test_bare_streams_are_counted_at_their_rate(suffix, codec, encode, picture, tmp_path):
    """FFmpeg gives such frames times, some by other rates, and others after a seek."""
    frames = [picture(number, 128, 96) for number in range(24)]
    bframes = {"bf": "2"} if codec != "h263" else {}
    path = encode(tmp_path / f"bare.{suffix}", frames, codec=codec, fps=25, g="8", **bframes)
    video = Video(path)
    full = list(video.frames())
    assert [frame.timestamp for frame in full] == pytest.approx(np.arange(24) / 25)
    assert (video.count_frames(), video.info.fps) == (24, 25)
    assert video.end == pytest.approx(24 / 25)
    for number in (1, 12, 23):
        first, *_ = video.frames(start=full[number].timestamp)
        assert (first.index, first.timestamp) == (number, full[number].timestamp)
        np.testing.assert_array_equal(first.pixels, full[number].pixels)


def test_packets_without_a_frame_let_the_one_before_last(encode, picture, tmp_path):
    """As Theora's encoder writes them where nothing changes."""
    whole = encode(tmp_path / "whole.mkv", [picture(n) for n in range(12)], fps=25, bf="0", g="4")

    def emptied(packet):
        number = round(packet.pts * packet.time_base * 25)
        return av.Packet(b"") if number in (3, 7, 11) else packet

    path = tmp_path / "empty.nut"
    with av.open(str(whole)) as given, av.open(str(path), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is None:
                continue
            written = emptied(packet)
            written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            written.stream = copy
            made.mux(written)
    frames = list(Video(path).frames())
    assert [frame.timestamp for frame in frames] == pytest.approx(
        [n / 25 for n in range(12) if n not in (3, 7, 11)], abs=1e-3
    )
    assert Video(path).count_frames() == len(frames)


RATES = (24, 25, 30, 60, 240, Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001))


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("ticks", [1000, 90000, 10**6], ids="{} ticks a second".format)
def test_a_rate_that_divides_the_videos_gives_every_nth_frame(rate, ticks):
    """Though containers round times to ticks, some from halfway."""
    times = [round(number / Fraction(rate) * ticks) / ticks for number in range(400)]
    length = round(ticks / Fraction(rate)) / ticks
    frame = av.VideoFrame(8, 8, "gray")
    pictures = [Picture(number, time, length, frame) for number, time in enumerate(times)]
    for nth in (1, 2, 3, 5, 10):
        sampled = sample(pictures, FrameRange(fps=float(rate) / nth), 0.5 / ticks + ROUNDING)
        assert [picture.index for picture in sampled] == list(range(0, 400, nth))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
def test_every_second_frame_at_the_rate_of_films(suffix, encode, tmp_path):
    path = encode(tmp_path / f"film.{suffix}", fps=Fraction(24000, 1001), bf="2")
    sampled = Video(path).frames(fps=12000 / 1001)
    assert [frame.index for frame in sampled] == list(range(0, 20, 2))


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({"start": -1.0}, "start=-1.0"),
        ({"start": math.nan}, "start=nan"),
        ({"end": math.inf}, "end=inf"),
        ({"start": 2.0, "end": 1.0}, "start=2.0, end=1.0"),
        ({"start": 1.0, "end": 1.0}, "start=1.0, end=1.0"),
        ({"end": 0.0}, "start=None, end=0.0"),
        ({"first": 5, "last": 4}, "first=5, last=4"),
        ({"first": -1}, "first=-1"),
        ({"fps": 0.0}, "got 0.0"),
        ({"fps": -3.0}, "got -3.0"),
        ({"fps": math.inf}, "got inf"),
        ({"start": 1.0, "last": 4}, "not both"),
    ],
)
def test_impossible_ranges(plain, arguments, numbers):
    with pytest.raises(VideoError, match=numbers):
        Video(plain).frames(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"start": 100.0}, {"start": 100.0, "fps": 5.0}, {"first": 20}, {"start": 0.51, "end": 0.59}],
)
def test_ranges_without_frames(plain, arguments):
    with pytest.raises(VideoError, match=r"no frame .*\b20 frames.*\b2 s$"):
        list(Video(plain).frames(**arguments))


def test_a_time_between_two_frames_shows_the_earlier_one(plain):
    (frame,) = Video(plain).frames(start=0.51, end=0.59, fps=1.0)
    assert frame.index == 5
