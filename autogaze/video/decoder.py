"""One pass over a video stream: seek, decode, number, date, and notice damage.

What a damaged stream loses shows in three ways, all looked for: the decoder refuses
a packet, it delivers a picture flagged as patched up, or the stream ends before the
file's own header says it should.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from autogaze.errors import CorruptVideoError
from autogaze.video.container import missing_bytes, reason
from autogaze.video.motion import MotionField
from autogaze.video.picture import Orientation
from autogaze.video.sampling import Picture
from autogaze.video.seeking import constant_step, decode_from, index_is_complete
from autogaze.video.stream import Decoded, OpenStream


@dataclass
class Decoder:
    """Decodes one stream in the order it is shown.

    Args:
        origin: seconds of the first frame on the stream's own clock.
        fps: nominal frame rate, which dates frames without timestamps.
        motion: export motion vectors (costs a little decoding time).
        skip_corrupt: go on after damage and count it, instead of raising.
    """

    path: Path
    origin: Fraction | None
    fps: float
    orientation: Orientation
    motion: bool = False
    skip_corrupt: bool = False
    num_corrupt: int = 0
    # The frame decoded last, and whether anything was lost so far.
    _index: int = -1
    _timestamp: float | None = None
    _end: float = 0.0
    _damaged: bool = False
    _refused: int = 0
    _given: int = 0

    def pictures(self, start: float = 0.0, first: int = 0) -> Generator[Picture, None, None]:
        """Decode up to the end, from at or before second `start` and frame `first`.

        Raises:
            CorruptVideoError: damage from there on, unless `skip_corrupt`.
        """
        with ExitStack() as stack:
            opened = stack.enter_context(OpenStream.open(self.path, motion=self.motion))
            if first and (step := constant_step(opened.stream)) is not None:
                start = float(first * step)
            landed = None
            if start > 0:
                if self.origin is not None:
                    landed = decode_from(opened, start, self.origin)
                if landed is None:  # a container that was sought in is not quite at its start again
                    opened = stack.enter_context(OpenStream.open(self.path, motion=self.motion))
            number, decoded = landed or (0, opened.decode())
            self._index, self._given = number - 1, number
            yield from self._pictures(decoded, opened, start)

    def lose(self, picture: Picture, cause: str) -> None:
        """Take a picture for lost that was given already but cannot be shown.

        Raises:
            CorruptVideoError: unless `skip_corrupt`.
        """
        self._damage(picture.index, cause)
        self._given -= 1
        self.num_corrupt += 1

    def _pictures(
        self, decoded: Iterable[Decoded], opened: OpenStream, start: float
    ) -> Iterator[Picture]:
        stream = opened.stream
        steady = stream.average_rate is not None and stream.average_rate == stream.base_rate
        for item in decoded:
            if isinstance(item, av.FFmpegError):
                self._damage(self._index + 1, reason(item))
                self._refused += 1
                continue
            frame, damaged = item
            expected = self._index + 1
            self._damaged |= damaged
            picture = self._place(frame, stream, steady)
            if not damaged:
                self._given += 1
                yield picture
            elif picture.timestamp >= start:  # after a seek, what comes before is run-up
                self._damage(expected, "the decoder could only patch it up")
                self.num_corrupt += 1
        self._check_end(opened, steady)

    def _place(self, frame: av.VideoFrame, stream: VideoStream, steady: bool) -> Picture:
        """Number and date the next frame of the stream."""
        period = 1 / self.fps
        previous = self._timestamp
        pts = frame.dts if frame.pts is None else frame.pts
        if pts is None or stream.time_base is None or self.origin is None:
            timestamp = 0.0 if previous is None else previous + period
        else:
            timestamp = float(pts * stream.time_base - self.origin)
        if previous is not None and timestamp <= previous:
            timestamp = previous + period  # a clock that stands still or jumps back
        step = 1
        if self._damaged:
            # A gap in time is frames that are gone; only a steady rate tells how many.
            gap = timestamp + period if previous is None else timestamp - previous
            step = max(1, round(gap * self.fps)) if steady else 1 + self._refused
            self.num_corrupt += step - 1
            self._refused = 0
        duration = period
        if frame.duration and stream.time_base is not None:
            duration = float(frame.duration * stream.time_base)
        self._index += step
        self._timestamp, self._end = timestamp, timestamp + duration
        motion = MotionField.of(frame, self.orientation) if self.motion else None
        return Picture(self._index, timestamp, duration, frame, motion)

    def _damage(self, index: int, cause: str) -> None:
        """Note damage at frame `index`; raise unless it is to be skipped."""
        self._damaged = True
        if not self.skip_corrupt:
            short = missing_bytes(self.path)
            note = f"; {short} bytes are missing at the end of the file" if short else ""
            raise CorruptVideoError(
                f"{self.path}: frame {index} cannot be decoded ({cause}){note}; "
                "skip_corrupt=True leaves such frames out"
            )

    def _check_end(self, opened: OpenStream, steady: bool) -> None:
        """Compare what was seen with what the file promises, at the end of the stream."""
        stream, seen, short = opened.stream, self._index + 1, missing_bytes(self.path)
        seconds = (opened.container.duration or 0) / 1_000_000
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        promised = 0
        if index_is_complete(stream):
            promised = sum(not entry.is_discard for entry in stream.index_entries)
            # The count alone proves little: a stream may hold packets that show nothing.
            ends_early = promised > seen and seconds - self._end > 0.5 / self.fps
            cut = ends_early or (short > 0 and promised > seen)
        else:
            cut = short > 0
        if cut and not self.skip_corrupt:
            of = f" of {promised}" if promised else ""
            cause = f"{short} bytes are missing" if short else "its last frames are damaged"
            raise CorruptVideoError(
                f"{self.path}: ends early, at frame {seen}{of} ({cause}); "
                "skip_corrupt=True takes what is there"
            )
        if not (cut or self._damaged):
            return
        if promised:
            self.num_corrupt = max(0, promised - self._given)
        elif steady:
            self.num_corrupt += max(0, round(seconds * self.fps) - seen)
        else:
            self.num_corrupt += max(cut, self._refused)
