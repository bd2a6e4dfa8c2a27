"""Timestamps: when each frame of a video is shown, which number it has, and which ones are wanted.

- `Clock` numbers and dates decoded frames, also where a stream dates them badly or has gaps.
- `seek` jumps into the middle of a file and finds out which frame it has landed at. Containers
  seek by time and do not number frames. Where an MP4's own index proves a constant frame rate the
  number follows from the time; elsewhere the packets up to there are counted, which reads the file
  but decodes nothing.
- `Sampling` is a range and a rate, and `sample` takes the frames it asks for. A rate keeps the
  frame that is on screen at every instant start, start + 1/fps, start + 2/fps, ...: the nearest
  one not later. A frame that is on screen at several instants is given once, so a slow video is
  never padded with duplicates.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise

import av
from av.video.stream import VideoStream

from autogaze.errors import VideoError
from autogaze.video.container import Decoded, OpenStream, open_container, video_stream
from autogaze.video.motion import MotionField

_ROUNDING = 1e-6  # seconds: much less than a frame, much more than floats are off

# These do not date every frame: FFmpeg fills in the rest, differently after a seek.
_UNDATED = ("avi", "mpeg", "mpegvideo", "m4v", "h264", "hevc")

# Their packets may hold no frame to show, so that counting packets says nothing.
_UNCOUNTABLE = ("vp8", "mpeg4", "msmpeg4v2", "msmpeg4v3")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded frame, not yet converted.

    Args:
        index: number in the whole stream, from 0.
        timestamp: seconds since the first frame of the stream.
        duration: seconds on screen, as far as known.
        motion: what the decoder says moved since the picture before.
    """

    index: int
    timestamp: float
    duration: float
    frame: av.VideoFrame
    motion: MotionField | None = None

    @property
    def end(self) -> float:
        return self.timestamp + self.duration

    def after(self, skipped: "Picture") -> "Picture":
        """The same picture, taking over the motion of one that is left out."""
        if self.motion is None or skipped.motion is None:
            return self
        return replace(self, motion=self.motion.plus(skipped.motion))


class Clock:
    """Numbers and dates the frames of one stream, which come in the order they are shown.

    Args:
        stream: where the frames come from.
        origin: seconds of the video's first frame on the stream's clock; None without timestamps.
        fps: nominal frame rate, which dates frames that have no timestamp.
        index: number of the frame before the first one to come.

    Attributes:
        steady: whether all frames are shown equally long, so that a gap in time tells how many
            frames are missing.
        last: the picture dated last.
    """

    def __init__(
        self, stream: VideoStream, origin: Fraction | None, fps: float, index: int = -1
    ) -> None:
        self.time_base, self.origin, self.fps, self.index = stream.time_base, origin, fps, index
        self.steady = stream.average_rate is not None and stream.average_rate == stream.base_rate
        self.last: Picture | None = None

    def date(self, frame: av.VideoFrame, refused: int | None = None) -> Picture:
        """The next frame with its number and timestamp.

        Args:
            frame: as it was decoded.
            refused: packets since the frame before that gave none; None if the stream has been
                intact so far, so that nothing can be missing.
        """
        period = 1 / self.fps
        previous = None if self.last is None else self.last.timestamp
        pts = frame.dts if frame.pts is None else frame.pts
        if pts is None or self.time_base is None or self.origin is None:
            timestamp = 0.0 if previous is None else previous + period
        else:
            timestamp = float(pts * self.time_base - self.origin)
        if previous is not None and timestamp <= previous:
            timestamp = previous + period  # a clock that stands still or jumps back
        step = 1
        if refused is not None:
            gap = timestamp + period if previous is None else timestamp - previous
            step = max(1, round(gap * self.fps)) if self.steady else 1 + refused
        duration = period
        if frame.duration and self.time_base is not None:
            duration = float(frame.duration * self.time_base)
        self.index += step
        self.last = Picture(self.index, timestamp, duration, frame)
        return self.last


# Where a stream is entered.


def seek(
    opened: OpenStream, start: float, origin: Fraction
) -> tuple[int, Iterable[Decoded]] | None:
    """Decode from a key frame at or before a moment.

    Args:
        opened: the stream, which is moved even if nothing comes of it.
        start: seconds after `origin`.
        origin: seconds of the first frame on the stream's own clock.

    Returns:
        The number of the frame landed at, and what is decoded from there on; None
        where only decoding from the beginning gives the right numbers.
    """
    stream = opened.stream
    if stream.time_base is None or opened.container.format.name in _UNDATED:
        return None
    # A seek may land after its aim (B-frames, coarse indices): step back until it does not.
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
        pts = landed[0].pts if isinstance(landed, tuple) else None
        if landed and pts is not None and pts * stream.time_base - origin <= start:
            number = _frame_number(opened, pts, origin)
            return None if number is None else (number, chain([landed], decoded))
        back = 2 * back + 1
    return None


def index_is_complete(stream: VideoStream) -> bool:
    """Whether the container's index has an entry for every frame (MP4 and its relatives)."""
    return len(stream.index_entries) == stream.frames > 0 and "mp4" in stream.container.format.name


def constant_step(stream: VideoStream) -> Fraction | None:
    """Seconds between any two frames in a row; None unless the index lists every frame evenly."""
    entries = stream.index_entries
    if stream.time_base is None or len(entries) < 2 or not index_is_complete(stream):
        return None
    times = [entry.timestamp for entry in entries]
    steps = {after - before for before, after in pairwise(times)}
    if len(steps) != 1 or (step := steps.pop()) <= 0:
        return None
    return step * stream.time_base


def _frame_number(opened: OpenStream, pts: int, origin: Fraction) -> int | None:
    """How many frames are shown before the one at `pts`; None if it cannot be known."""
    stream = opened.stream
    if (step := constant_step(stream)) is not None and stream.time_base is not None:
        return round((pts * stream.time_base - origin) / step)
    if stream.codec_context.codec.canonical_name in _UNCOUNTABLE:
        return None
    count = 0
    with open_container(opened.path) as container:
        try:
            for packet in container.demux(video_stream(container, opened.path)):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.pts is None or packet.dts is None:
                    return None
                if packet.dts > pts:
                    break  # packets come by dts, and pts is never before dts
                count += packet.pts < pts
        except av.FFmpegError:
            return None
    return count


# Which frames are wanted.


@dataclass(frozen=True)
class Sampling:
    """A choice of frames.

    Args:
        start, end: seconds; frames shown from `start` on and before `end`.
        first, last: frame numbers from 0, both included; not together with seconds.
        fps: frames wanted per second; None for all.

    Raises:
        VideoError: not finite, negative, start >= end, first > last, fps <= 0.
    """

    start: float | None = None
    end: float | None = None
    first: int | None = None
    last: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        seconds = f"start={self.start}, end={self.end}"
        for value in (self.start, self.end):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise VideoError(f"seconds must be finite and at least 0, got {seconds}")
        if self.end is not None and (self.start or 0.0) >= self.end:
            raise VideoError(f"start must come before end, got {seconds}")
        numbers = f"first={self.first}, last={self.last}"
        for number in (self.first, self.last):
            if number is not None and number < 0:
                raise VideoError(f"frame numbers must be at least 0, got {numbers}")
        if self.last is not None and (self.first or 0) > self.last:
            raise VideoError(f"first must not be greater than last, got {numbers}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise VideoError(f"fps must be finite and greater than 0, got {self.fps}")
        by_seconds = self.start is not None or self.end is not None
        if by_seconds and (self.first is not None or self.last is not None):
            raise VideoError(f"give seconds or frame numbers, not both: got {seconds}, {numbers}")

    def __str__(self) -> str:
        if self.first is not None or self.last is not None:
            return f"frames {self.first or 0} to {'the end' if self.last is None else self.last}"
        return f"{self.start or 0:g} s to {'the end' if self.end is None else f'{self.end:g} s'}"


def sample(
    pictures: Iterable[Picture], sampling: Sampling, slack: float = _ROUNDING
) -> Iterator[Picture]:
    """The wanted ones among `pictures`, which come in the order they are shown.

    Args:
        pictures: all frames from the one shown at `sampling.start` on, or earlier.
        sampling: which ones are wanted.
        slack: seconds by which the container may have rounded a timestamp up; a
            frame counts as on screen that much before its timestamp.
    """
    first = sampling.first or 0
    last = math.inf if sampling.last is None else sampling.last
    start = sampling.start or 0.0
    end = math.inf if sampling.end is None else sampling.end
    if sampling.fps is None:
        for picture in pictures:
            if picture.timestamp >= end or picture.index > last:
                return
            if picture.timestamp >= start and picture.index >= first:
                yield picture
            if picture.index >= last:
                return
    else:
        numbered = sample(pictures, Sampling(first=sampling.first, last=sampling.last))
        begin = None if sampling.first is not None else start
        yield from _at_rate(numbered, sampling.fps, begin, end, slack)


def _at_rate(
    pictures: Iterable[Picture], fps: float, start: float | None, end: float, slack: float
) -> Iterator[Picture]:
    """The pictures on screen at start + k / fps before `end`; by default from the first one on."""
    waiting: Picture | None = None  # the latest picture, and the instant it is on screen at
    waiting_instant = 0
    given = True  # whether it was passed on already, or hands its motion to the next one
    for picture in pictures:
        if start is None:
            start = picture.timestamp
        # The first instant at which this frame, or a later one, is on screen.
        instant = max(0, math.ceil((picture.timestamp - slack - start) * fps))
        if waiting is not None and instant > waiting_instant:
            if start + waiting_instant / fps >= end - _ROUNDING:
                return
            yield waiting
            given = True
        if picture.timestamp >= end:
            return
        waiting = picture if waiting is None or given else picture.after(waiting)
        waiting_instant, given = instant, False
    if waiting is None or start is None:
        return
    if start + waiting_instant / fps < min(end, waiting.end) - _ROUNDING:
        yield waiting
