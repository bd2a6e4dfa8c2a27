"""Which frames of a video are wanted: a range, and a rate.

Sampling at a rate keeps the frame that is on screen at every instant
start, start + 1/fps, start + 2/fps, ...: the nearest one not later. A frame that is
on screen at several instants is given once, so a slow video is never padded with
duplicates.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import av

from autogaze.errors import VideoError
from autogaze.video.motion import MotionField

_ROUNDING = 1e-6  # seconds: much less than a frame, much more than floats are off


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

    def after(self, skipped: "Picture") -> "Picture":
        """The same picture, taking over the motion of one that is left out."""
        if self.motion is None or skipped.motion is None:
            return self
        return replace(self, motion=self.motion.plus(skipped.motion))


@dataclass(frozen=True)
class Sampling:
    """A choice of frames.

    Args:
        start, end: seconds; frames shown from `start` on and before `end`.
        first, last: frame numbers from 0, both included; not together with seconds.
        fps: frames wanted a second; None for all.

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


def choose(
    pictures: Iterable[Picture], sampling: Sampling, slack: float = _ROUNDING
) -> Iterator[Picture]:
    """The wanted ones among `pictures`, which come in the order they are shown.

    Args:
        pictures: all frames from the one shown at `sampling.start` on, or earlier.
        sampling: which ones are wanted.
        slack: seconds by which the container may have rounded a timestamp up; a
            frame is held to be on screen that much before its timestamp.
    """
    if sampling.fps is not None:
        yield from _sampled(_ranged(pictures, sampling, around=True), sampling, slack)
    else:
        yield from _ranged(pictures, sampling, around=False)


def _ranged(pictures: Iterable[Picture], sampling: Sampling, around: bool) -> Iterator[Picture]:
    """Frames inside the range; `around` leaves the cut at its seconds to the caller."""
    start = 0.0 if around else sampling.start or 0.0
    end = math.inf if around or sampling.end is None else sampling.end
    first = sampling.first or 0
    last = math.inf if sampling.last is None else sampling.last
    for picture in pictures:
        if picture.timestamp >= end or picture.index > last:
            return
        if picture.timestamp >= start and picture.index >= first:
            yield picture
        if picture.index >= last:
            return


def _sampled(pictures: Iterable[Picture], sampling: Sampling, slack: float) -> Iterator[Picture]:
    fps = sampling.fps or math.inf
    start: float | None = 0.0 if sampling.first is None else None
    if sampling.start is not None:
        start = sampling.start
    end = math.inf if sampling.end is None else sampling.end
    held: Picture | None = None
    held_instant = 0
    given = True  # whether the held frame was passed on, or has to be taken over
    for picture in pictures:
        if start is None:
            start = picture.timestamp
        # The first instant at which this frame, or a later one, is on screen.
        instant = max(0, math.ceil((picture.timestamp - slack - start) * fps))
        if held is not None and instant > held_instant:
            if start + held_instant / fps >= end - _ROUNDING:
                return
            yield held
            given = True
        if picture.timestamp >= end:
            return
        held = picture if held is None or given else picture.after(held)
        held_instant, given = instant, False
    if held is not None and start is not None:
        moment = start + held_instant / fps
        if moment < min(end, held.timestamp + held.duration) - _ROUNDING:
            yield held
