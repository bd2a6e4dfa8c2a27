"""Timestamps and numbers of a video's frames, seeking, and sampling at a rate.

- `Clock` assigns numbers and timestamps to decoded frames, also in streams with bad timestamps or
  gaps.
- `seek` enters a file in the middle and finds the number of the frame there. Containers seek by
  time and do not number frames. If an MP4's index proves a constant frame rate the number follows
  from the time; else the packets up to there are counted, without decoding them.
- `FrameRange` is a range and a rate, and `sample` yields its frames. A rate keeps the frame that is
  on screen at start, start + 1/fps, start + 2/fps, ...: the nearest one not later. No frame is
  yielded twice, so a slow video is never padded with duplicates.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise

import av
import numpy as np
from av.video.stream import VideoStream

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import VideoError
from autogaze.video.container import (
    Decoded,
    ListedFrame,
    OpenStream,
    PacketOrigin,
    index_is_complete,
    open_container,
)
from autogaze.video.motion import MotionField

ROUNDING = 1e-6  # seconds: much less than a frame, much more than floats are off

# These formats do not timestamp every frame. FFmpeg fills in the rest, with other values after a seek.
_WITHOUT_TIMESTAMPS = ("avi", "mpeg")

_PARSED = ("h264", "hevc", "mpeg1video", "mpeg2video", "vc1")
"""Codecs whose packets FFmpeg splits again in ASF: after a seek, the first gets the time of another."""

UNCOUNTABLE = ("vp8", "mpeg4", "msmpeg4v2", "msmpeg4v3")
"""Codecs whose packets may hold no displayed frame, so that packets cannot be counted."""

# Recordings in these may be joined, so that their clock may jump.
_JOINED = ("mpegts", "mpeg")
_LONGEST_GAP = 10.0  # seconds; a longer one is a jump (as FFmpeg's dts_delta_threshold)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded frame, not yet converted to RGB (of an image file: already converted).

    Args:
        index: number in the whole stream, from 0.
        timestamp: seconds since the first frame of the stream.
        duration: seconds on screen, as far as known.
        motion: motion since the picture before, by the decoder's vectors.
    """

    index: int
    timestamp: float
    duration: float
    frame: av.VideoFrame | ListedFrame | np.ndarray
    motion: MotionField | None = None

    @property
    def end(self) -> float:
        return self.timestamp + self.duration

    def after(self, skipped: "Picture") -> "Picture":
        """The same picture, with the motion of a skipped one before it added."""
        if self.motion is None or skipped.motion is None:
            return self
        return replace(self, motion=self.motion.plus(skipped.motion))


class Clock:
    """Assigns numbers and timestamps to the frames of one stream, in display order.

    Args:
        stream: where the frames come from.
        origin: seconds of the video's first frame on the stream's clock; None without timestamps.
        fps: nominal frame rate, for frames without a timestamp.
        index: number of the frame before the next one.

    Attributes:
        steady: whether the frame rate is constant, so that a gap in time tells how many frames
            are missing.
        last: the last picture.
    """

    def __init__(
        self, stream: VideoStream, origin: Fraction | None, fps: float, index: int = -1
    ) -> None:
        self.time_base, self.origin, self.fps, self.index = stream.time_base, origin, fps, index
        self.steady = origin is not None and stream.average_rate == stream.base_rate is not None
        self.last: Picture | None = None
        self._joined = stream.container.format.name in _JOINED
        self._shift = 0.0  # of the clock, since it jumped

    def stamp(
        self, frame: av.VideoFrame | ListedFrame, failed_packets: int | None = None
    ) -> Picture:
        """The next frame with its number and timestamp.

        Args:
            failed_packets: packets since the frame before that gave none; None if the stream has
                been intact so far.
        """
        period = 1 / self.fps
        previous = None if self.last is None else self.last.timestamp
        pts = frame.dts if frame.pts is None else frame.pts
        if pts is None or self.time_base is None or self.origin is None:
            timestamp = 0.0 if previous is None else previous + period * (1 + (failed_packets or 0))
        else:
            timestamp = float(pts * self.time_base - self.origin) + self._shift
            if self.last is not None and self._joined:
                moved = timestamp - self.last.timestamp
                if moved > _LONGEST_GAP or moved < -3 * period:
                    self._shift += self.last.end - timestamp
                    timestamp = self.last.end
        if previous is not None and timestamp <= previous:
            timestamp = previous + period  # a clock that stands still or jumps back
        step = 1
        if failed_packets is not None:
            gap = timestamp + period if previous is None else timestamp - previous
            step = max(1, round(gap * self.fps)) if self.steady else 1 + failed_packets
        duration = period
        if frame.duration and self.time_base is not None and self.origin is not None:
            duration = float(frame.duration * self.time_base)
        self.index += step
        self.last = Picture(self.index, timestamp, duration, frame)
        return self.last


def seek(
    opened: OpenStream, start: float, origin: Fraction
) -> tuple[int, Iterable[Decoded]] | None:
    """Decode from a key frame at or before a time.

    Args:
        opened: the stream, whose position changes in any case.
        start: seconds after `origin`.
        origin: seconds of the first frame on the stream's own clock.

    Returns:
        The number of the frame found, and the decoded frames from there on; None where only
        decoding from the beginning gives the right numbers.
    """
    stream = opened.stream
    container, codec = opened.container.format.name, stream.codec_context.codec.canonical_name
    if stream.time_base is None or container in _WITHOUT_TIMESTAMPS or opened.without_pts:
        return None
    if container == "asf" and codec in _PARSED:
        return None
    # A seek may end after its target (B-frames, coarse indices): step back until it does not.
    back = 0.0
    while back < start:
        aim = round((Fraction(start - back) + origin) / stream.time_base)
        try:
            opened.container.seek(aim, stream=stream, backward=True)
        except av.FFmpegError:
            return None
        opened.decoder.flush_buffers()
        decoded = opened.decode()
        landed = next(decoded, None)
        origin_of = landed[0].opaque if isinstance(landed, tuple) else None
        if not isinstance(landed, tuple) or not isinstance(origin_of, PacketOrigin):
            return None
        pts, position = landed[0].pts, origin_of.position
        if pts is not None and pts * stream.time_base - origin <= start:
            number = _frame_number(opened, pts, position, origin)
            return None if number is None else (number, chain([landed], decoded))
        back = 2 * back + 1
    return None


def constant_step(stream: VideoStream) -> Fraction | None:
    """Seconds between consecutive frames; None unless the index lists all frames evenly."""
    entries = stream.index_entries
    if stream.time_base is None or len(entries) < 2 or not index_is_complete(stream):
        return None
    times = [entry.timestamp for entry in entries]
    steps = {after - before for before, after in pairwise(times)}
    if len(steps) != 1 or (step := steps.pop()) <= 0:
        return None
    return step * stream.time_base


def _frame_number(
    opened: OpenStream, pts: int, position: int | None, origin: Fraction
) -> int | None:
    """How many frames are shown before the one at `pts`; None if it cannot be known.

    Args:
        pts: of the frame, in ticks.
        position: byte at which its packet begins: in joined recordings others have its time.
        origin: seconds of the first frame.
    """
    stream = opened.stream
    if (step := constant_step(stream)) is not None and stream.time_base is not None:
        return round((pts * stream.time_base - origin) / step)
    if stream.codec_context.codec.canonical_name in UNCOUNTABLE:
        return None
    joined, tick = opened.container.format.name in _JOINED, stream.time_base
    jump = math.inf if tick is None else _LONGEST_GAP / float(tick)  # too far for one recording
    count, last, found = 0, None, False
    with open_container(opened.path) as container:
        try:
            for packet in container.demux(container.streams[stream.index]):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None or packet.dts is None:
                    return None
                if joined and last is not None and not last <= packet.dts <= last + jump:
                    return None
                last = packet.dts
                if packet.dts > pts:
                    break  # packets come by dts, and pts is never before dts
                count += packet.pts < pts
                found |= (packet.pts, packet.pos) == (pts, position)
        except av.FFmpegError:
            return None
    return count if found or not joined else None


def count_frames(opened: OpenStream) -> int:
    """Number of displayed frames: by the index, by the packets, or by decoding them all."""
    if (indexed := opened.num_indexed) is not None:
        return indexed
    if opened.stream.codec_context.codec.canonical_name in UNCOUNTABLE:
        return sum(not isinstance(item, av.FFmpegError) for item in opened.decode())
    count = 0
    try:
        for packet in opened.container.demux(opened.stream):
            count += packet.size > 0 and not packet.is_discard
    except av.FFmpegError:  # what comes behind damage is not counted
        pass
    return count


@dataclass(frozen=True)
class FrameRange:
    """A range of frames and a rate.

    Args:
        start, end: seconds; frames shown from `start` on and before `end`.
        first, last: frame numbers from 0, both included; not together with seconds.
        fps: frames sampled per second; None for all.

    Raises:
        VideoError: not finite, negative, start >= end, first > last, fps <= 0.
    """

    start: float | None = None
    end: float | None = None
    first: int | None = None
    last: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        seconds = f"start={describe_value(self.start)}, end={describe_value(self.end)}"
        for value in (self.start, self.end):
            if value is not None and not (is_finite(value) and 0 <= value < 1e12):
                raise VideoError(f"seconds must be finite and at least 0, got {seconds}")
        if self.end is not None and (self.start or 0.0) >= self.end:
            raise VideoError(f"start must come before end, got {seconds}")
        numbers = f"first={describe_value(self.first)}, last={describe_value(self.last)}"
        for number in (self.first, self.last):
            if number is not None and (whole(number) is None or number < 0):
                raise VideoError(f"frame numbers must be at least 0, got {numbers}")
        if self.last is not None and (self.first or 0) > self.last:
            raise VideoError(f"first must not be greater than last, got {numbers}")
        if self.fps is not None and not (is_finite(self.fps) and self.fps > 0):
            raise VideoError(
                f"fps must be finite and greater than 0, got {describe_value(self.fps)}"
            )
        by_seconds = self.start is not None or self.end is not None
        if by_seconds and (self.first is not None or self.last is not None):
            raise VideoError(f"give seconds or frame numbers, not both: got {seconds}, {numbers}")

    def __str__(self) -> str:
        if self.first is not None or self.last is not None:
            return f"frames {self.first or 0} to {'the end' if self.last is None else self.last}"
        return f"{self.start or 0:g} s to {'the end' if self.end is None else f'{self.end:g} s'}"


def sample(
    pictures: Iterable[Picture], frame_range: FrameRange, slack: float = ROUNDING
) -> Iterator[Picture]:
    """The pictures of a range, in display order.

    Args:
        pictures: all frames from the one shown at `frame_range.start` on, or earlier.
        slack: seconds by which the container may have rounded a timestamp up; a
            frame counts as on screen that much before its timestamp.
    """
    first = frame_range.first or 0
    last = math.inf if frame_range.last is None else frame_range.last
    start = frame_range.start or 0.0
    end = math.inf if frame_range.end is None else frame_range.end
    if frame_range.fps is None:
        for picture in pictures:
            if picture.timestamp >= end or picture.index > last:
                return
            if picture.timestamp >= start and picture.index >= first:
                yield picture
            if picture.index >= last:
                return
    else:
        numbered = sample(pictures, FrameRange(first=frame_range.first, last=frame_range.last))
        begin = None if frame_range.first is not None else start
        yield from _at_rate(numbered, frame_range.fps, begin, end, slack)


def _at_rate(
    pictures: Iterable[Picture], fps: float, start: float | None, end: float, slack: float
) -> Iterator[Picture]:
    """The pictures on screen at start + k / fps before `end`; by default from the first one on."""
    latest: Picture | None = None  # the latest picture, and the instant it is on screen at
    latest_instant = 0
    yielded = True  # whether it was yielded; else its motion is added to the next one
    for picture in pictures:
        if start is None:
            start = picture.timestamp
        # The first instant at which this frame, or a later one, is on screen.
        instant = max(0, math.ceil((picture.timestamp - slack - start) * fps))
        if latest is not None and instant > latest_instant:
            if start + latest_instant / fps >= end - ROUNDING:
                return
            yield latest
            yielded = True
        if picture.timestamp >= end:
            return
        latest = picture if latest is None or yielded else picture.after(latest)
        latest_instant, yielded = instant, False
    if latest is None or start is None:
        return
    # The end is rounded twice: when the last frame begins, and how long it lasts.
    last_end = latest.end - min(2 * slack, latest.duration / 2)
    if start + latest_instant / fps < min(end - ROUNDING, last_end):
        yield latest


def only(pictures: Iterable[Picture], numbers: Collection[int] | None) -> Iterator[Picture]:
    """The pictures of these numbers, with the motion since the one before; all for None."""
    skipped: Picture | None = None
    for picture in pictures:
        latest = picture if skipped is None else picture.after(skipped)
        skipped = None
        if numbers is None or picture.index in numbers:
            yield latest
        else:
            skipped = latest
