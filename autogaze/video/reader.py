"""Frames of a video file, one at a time.

```python
video = open_video("long.mp4")
for frame in video.frames(start=3600, fps=2):
    frame.pixels  # (H, W, 3) uint8 RGB, the way up it is displayed
```

Memory does not grow with the video, and a late start costs a seek, not a decode.
Nothing stays open between two loops over `frames`.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import Decoded, OpenStream, missing_bytes, reason
from autogaze.video.frames import Orientation, to_rgb
from autogaze.video.info import DEFAULT_FPS, Layout, VideoInfo, probe
from autogaze.video.motion import MotionField, check_motion
from autogaze.video.sampling import Picture, Sampling, choose
from autogaze.video.seeking import constant_step, decode_from, index_is_complete
from autogaze.video.stills import read_still

# One pass over a video stream: seek, decode, number, date, and notice damage.


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


# Containers round timestamps to their tick; beyond this a tick is no rounding any more.
_LARGEST_SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """One displayed frame.

    Args:
        index: number in the whole video, from 0, lost frames included.
        timestamp: seconds since the video's first frame.
        pixels: (H, W, 3) RGB as displayed; transparent pixels lie on black.
        motion: what moved since the frame given before this one (all is new in the
            first), if asked for.
    """

    index: int
    timestamp: float
    pixels: UInt8[np.ndarray, "H W 3"]
    motion: MotionField | None = None


class Video:
    """A video file, or a still image as a video of one frame.

    Attributes:
        info: size, rate, duration and formats.
        num_corrupt: frames the last loop over `frames` had to leave out.

    Raises:
        VideoError: missing, a folder, not a video, no video stream, no frames.
    """

    info: VideoInfo
    num_corrupt: int

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.info, self._layout = probe(self._path)
        self.num_corrupt = 0

    def frames(
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        first: int | None = None,
        last: int | None = None,
        fps: float | None = None,
        skip_corrupt: bool = False,
        motion: bool = False,
    ) -> Iterator[Frame]:
        """Decode frames in the order they are shown.

        Args:
            start: seconds; frames from there on.
            end: seconds; frames before that.
            first: number of the first frame wanted, from 0, instead of seconds.
            last: number of the last frame wanted, included.
            fps: give only the frames on screen at start, start + 1/fps, ...; never
                one twice, so no more than the video has.
            skip_corrupt: leave damaged frames out and count them in `num_corrupt`,
                instead of raising.
            motion: fill `Frame.motion`; only some codecs can (see `video.motion`).

        Raises:
            VideoError: an impossible range or rate, a range that holds no frame, or
                motion asked of a codec that exports none.
            CorruptVideoError: a damaged or truncated stream; the message says at
                which frame. Frames before it have been given by then.
        """
        sampling = Sampling(start, end, first, last, fps)
        if motion:
            check_motion(self.info.codec, self.info.path)
        return self._frames(sampling, skip_corrupt, motion)

    def _frames(self, sampling: Sampling, skip_corrupt: bool, motion: bool) -> Iterator[Frame]:
        self.num_corrupt = 0
        frames = (
            self._still(sampling)
            if self._layout is None
            else self._decoded(self._layout, sampling, skip_corrupt, motion)
        )
        empty = True
        for frame in frames:
            empty = False
            yield frame
        if empty:
            length = "" if self.info.duration is None else f"; it lasts {self.info.duration:g} s"
            frames_there = f"{self.info.num_frames or 'an unknown number of'} frames"
            raise VideoError(
                f"{self._path}: no frame lies in {sampling}: the video has {frames_there}{length}"
            )

    def _still(self, sampling: Sampling) -> Iterator[Frame]:
        if not sampling.start and not sampling.first:
            yield Frame(0, 0.0, read_still(self._path))

    def _decoded(
        self, layout: Layout, sampling: Sampling, skip_corrupt: bool, motion: bool
    ) -> Iterator[Frame]:
        decoder = Decoder(
            self._path,
            layout.origin,
            self.info.fps or DEFAULT_FPS,
            layout.orientation,
            motion,
            skip_corrupt,
        )
        slack = max(1e-6, min(layout.tick / 2, _LARGEST_SLACK))
        is_first = True
        with closing(decoder.pictures(sampling.start or 0.0, sampling.first or 0)) as pictures:
            try:
                for picture in choose(pictures, sampling, slack):
                    moved = picture.motion
                    if moved is not None and is_first:
                        moved = moved.all_new()
                    is_first = False
                    try:
                        pixels = to_rgb(
                            picture.frame, layout.width, layout.height, layout.orientation
                        )
                    except av.FFmpegError:
                        matrix = int(picture.frame.colorspace)
                        decoder.lose(picture, f"no way from its colours, matrix {matrix}, to RGB")
                        continue
                    self.num_corrupt = decoder.num_corrupt
                    yield Frame(picture.index, picture.timestamp, pixels, moved)
            finally:
                self.num_corrupt = decoder.num_corrupt

    def __repr__(self) -> str:
        info = self.info
        rate = "still image" if info.is_image else f"{info.fps or 0:.4g} fps, {info.duration} s"
        return f"Video({info.path}, {info.width} x {info.height}, {info.codec}, {rate})"


def open_video(path: str | Path) -> Video:
    """Open a video or image file; see `Video`."""
    return Video(path)
