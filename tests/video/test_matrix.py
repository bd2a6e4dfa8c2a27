"""Every codec in every container that FFmpeg writes: frames and times are FFmpeg's own.

The judge decodes straight through, with FFmpeg's rule of the best effort timestamp, and knows the
times that the muxer was told.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import Flags

from autogaze.datasets.decoding import PyAVVideo
from autogaze.datasets.video_utils import read_video_pyav
from autogaze.video.reader import Video

WIDTH, HEIGHT, COUNT, FPS = 64, 48, 14, 25
TICK = Fraction(1, 1000)


@dataclass(frozen=True)
class Codec:
    encoder: str
    options: tuple[tuple[str, str], ...] = ()
    pixel_format: str = "yuv420p"


CODECS = {
    "h264": Codec("libx264", (("bf", "0"), ("g", "6"), ("preset", "ultrafast"))),
    "h264 b": Codec("libx264", (("bf", "2"), ("g", "6"), ("preset", "veryfast"))),
    "hevc": Codec("libx265", (("x265-params", "log-level=none:keyint=6:bframes=2:pools=1"),)),
    "vp9": Codec("libvpx-vp9", (("cpu-used", "8"), ("deadline", "realtime"), ("g", "6"))),
    "av1": Codec("libsvtav1", (("preset", "12"), ("g", "6"), ("svtav1-params", "lp=1"))),
    "mpeg4": Codec("mpeg4", (("g", "6"),)),
    "mpeg4 b": Codec("mpeg4", (("g", "6"), ("bf", "2"))),
    "mjpeg": Codec("mjpeg", (), "yuvj420p"),
    "prores": Codec("prores_ks", (), "yuv422p10le"),
    "ffv1": Codec("ffv1"),
}
CONTAINERS = {
    "mp4": ("mp4", {}),
    "mkv": ("mkv", {}),
    "webm": ("webm", {}),
    "avi": ("avi", {}),
    "mov": ("mov", {}),
    "ts": ("ts", {}),
    "fragmented": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "half fragmented": ("mp4", {"movflags": "frag_keyframe"}),
}
IN = {
    "h264": "mp4 mkv avi mov ts fragmented|half fragmented",
    "h264 b": "mp4 mkv avi mov ts fragmented|half fragmented",
    "hevc": "mp4 mkv mov ts fragmented",
    "vp9": "mp4 mkv webm fragmented",
    "av1": "mp4 mkv webm fragmented",
    "mpeg4": "mp4 mkv avi mov ts fragmented",
    "mpeg4 b": "mp4 mkv avi mov ts fragmented",
    "mjpeg": "mp4 mkv avi mov",
    "prores": "mkv mov",
    "ffv1": "mkv avi",
}
NO_LATE_START = ("avi",)
NO_VARIABLE_RATE = ("avi", "ts")  # AVI has one, by empty packets: see the test below
EDIT_LISTS = ("mp4", "mov")

STEADY = [40 * number for number in range(COUNT)]
VARIABLE = [0, 40, 80, 200, 220, 300, 301, 420, 1000, 1040, 1500, 1530, 1600, 1720]


def cases():
    for codec, containers in IN.items():
        for container in [one for part in containers.split("|") for one in _split(part)]:
            kinds = ["steady"]
            kinds += ["late"] if container not in NO_LATE_START else []
            kinds += ["variable"] if container not in NO_VARIABLE_RATE else []
            kinds += ["cut"] if container in EDIT_LISTS else []
            for kind in kinds:
                yield pytest.param(codec, container, kind, id=f"{codec}-{container}-{kind}")


def _split(part):
    return [part] if part in CONTAINERS else part.split()


def pictures():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(COUNT):
        frame = np.stack([3 * x, 4 * y, x + y], axis=-1).astype(np.uint8)
        frame[8:24, 3 * number : 3 * number + 16] = 250 - 12 * number
        yield frame


def encode(path: Path, codec: Codec, milliseconds, options, shift: int = 0) -> Path:
    """Encode into a container, all times `shift` milliseconds later."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec.encoder, rate=FPS, options=dict(codec.options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, codec.pixel_format
        context = stream.codec_context
        context.thread_count = 1
        steady = [40 * number for number in range(COUNT)] == list(milliseconds)
        context.time_base = Fraction(1, FPS) if steady else TICK
        context.flags |= Flags.frame_duration
        durations = [b - a for a, b in pairwise(milliseconds)] + [40]
        packets = []
        for start, duration, pixels in zip(milliseconds, durations, pictures(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = context.time_base
            frame.pts = round(start * TICK / context.time_base)
            frame.duration = round(duration * TICK / context.time_base)
            packets += stream.encode(frame)
        for packet in packets + stream.encode(None):
            moved = round(shift * TICK / packet.time_base)
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            container.mux(packet)
    return path


def judged(path: Path) -> tuple[list[float | None], list[np.ndarray]]:
    """FFmpeg's own: best effort timestamps relative to the first, in seconds, and the pixels."""
    times: list[float | None] = []
    pixels = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        wrong_pts = wrong_dts = 0
        last_pts = last_dts = -(2**63)
        for frame in container.decode(stream):
            pts, dts = frame.pts, frame.dts
            if dts is not None:
                wrong_dts, last_dts = wrong_dts + (dts <= last_dts), dts
            if pts is not None:
                wrong_pts, last_pts = wrong_pts + (pts <= last_pts), pts
            best = pts if pts is not None and (wrong_pts <= wrong_dts or dts is None) else dts
            times.append(None if best is None else float(best * stream.time_base))
            pixels.append(frame.to_ndarray(format="rgb24"))
    first = times[0] or 0.0
    return [None if time is None else time - first for time in times], pixels


@pytest.mark.parametrize(("codec", "container", "kind"), list(cases()))
def test_frames_and_times_are_ffmpegs(codec, container, kind, tmp_path):
    suffix, options = CONTAINERS[container]
    path = tmp_path / f"file.{suffix}"
    told = VARIABLE if kind == "variable" else STEADY
    shift = {"late": 3000, "cut": -200}.get(kind, 0)
    encode(path, CODECS[codec], told, options, shift)
    times, pixels = judged(path)
    if kind == "cut":
        told = [time - 200 for time in told[5:]]
    assert len(pixels) == len(told)
    expected = [(time - told[0]) / 1000 for time in told]

    video = Video(path)
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(len(told)))
    seen = [frame.timestamp for frame in frames]
    assert seen == pytest.approx(expected, abs=1.1e-3)
    if container != "avi":  # which has no timestamps, so that FFmpeg guesses
        assert seen == pytest.approx(times, abs=1e-6)
    # MP4 has durations in the order of decoding, of which the last is not the last frame's.
    reordered = kind == "variable" and codec in ("h264 b", "hevc") and suffix in ("mp4", "mov")
    assert video.end == pytest.approx(expected[-1] + 0.04, abs=0.011 if reordered else 2e-3)
    for frame, want in zip(frames, pixels, strict=True):
        np.testing.assert_array_equal(frame.pixels, want)
    assert video.count_frames() == PyAVVideo(path).num_frames == len(told)

    late = list(video.frames(start=seen[-3]))
    middle = list(video.frames(first=4, last=6))
    assert [frame.index for frame in late] == list(range(len(told) - 3, len(told)))
    assert [frame.index for frame in middle] == [4, 5, 6]
    for frame in late + middle:
        assert frame.timestamp == seen[frame.index]
        np.testing.assert_array_equal(frame.pixels, pixels[frame.index])
    with av.open(str(path)) as opened:
        np.testing.assert_array_equal(read_video_pyav(opened, [5, 1]), [pixels[5], pixels[1]])


@pytest.mark.parametrize("codec", ["h264", "h264 b", "mpeg4", "ffv1"])
def test_variable_rates_in_avi(codec, tmp_path):
    times = [20 * step for step in (0, 2, 4, 10, 11, 15, 16, 21, 30, 32, 40, 41, 43, 45)]
    path = encode(tmp_path / "file.avi", CODECS[codec], times, {})
    video = Video(path)
    seen = [frame.timestamp for frame in video.frames()]
    known = COUNT - 2 if codec == "h264 b" else COUNT  # behind the last packet nothing tells
    assert seen[:known] == pytest.approx([time / 1000 for time in times[:known]], abs=2e-3)
    assert len(seen) == video.count_frames() == COUNT
