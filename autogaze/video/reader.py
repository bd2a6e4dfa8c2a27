"""Reading the frames of a video file, one at a time.

```python
video = Video("long.mp4")
for frame in video.frames(start=3600, fps=2):
    frame.pixels  # (H, W, 3) uint8 RGB, as displayed
```

Memory does not grow with the video, and a late start costs a seek, not a decode.
Nothing stays open between two loops over `frames`.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import (
    Decoded,
    Layout,
    OpenStream,
    VideoInfo,
    missing_bytes,
    probe,
    reason,
)
from autogaze.video.frames import to_rgb
from autogaze.video.motion import MotionField, check_motion
from autogaze.video.stills import read_still
from autogaze.video.timestamps import (
    Clock,
    Picture,
    Sampling,
    constant_step,
    index_is_complete,
    sample,
    seek,
)

_LARGEST_SLACK = 1e-3
"""Bound on the rounding of timestamps to the container's tick, in seconds."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One displayed frame.

    Args:
        index: number in the whole video, from 0, dropped frames included.
        timestamp: seconds since the video's first frame.
        pixels: (H, W, 3) RGB as displayed; transparent pixels are composited on black.
        motion: motion since the frame yielded before (all new in the first), if requested.
    """

    index: int
    timestamp: float
    pixels: UInt8[np.ndarray, "H W 3"]
    motion: MotionField | None = None


class Video:
    """A video file, or a still image as a video of one frame.

    Attributes:
        info: size, rate, duration and formats.
        num_corrupt: frames that the last loop over `frames` skipped.

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
        """Decode frames in display order.

        Args:
            start: seconds; frames from there on.
            end: seconds; frames before that.
            first: number of the first frame, from 0, instead of seconds.
            last: number of the last frame, included.
            fps: only the frames on screen at start, start + 1/fps, ...; none twice, so no more
                than the video has.
            skip_corrupt: skip damaged frames and count them in `num_corrupt`, instead of raising.
            motion: fill `Frame.motion`; only some codecs can (see `video.motion`).

        Raises:
            VideoError: an invalid range or rate, a range without frames, or motion of a codec
                that exports none.
            CorruptVideoError: a damaged or truncated stream, after the frames before the damage.
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
        decoding = _Decoding(self._path, layout, self.info.rate, motion, skip_corrupt)
        slack = max(1e-6, min(layout.tick / 2, _LARGEST_SLACK))
        is_first = True
        with closing(decoding.pictures(sampling.start or 0.0, sampling.first or 0)) as pictures:
            try:
                for picture in sample(pictures, sampling, slack):
                    moved = picture.motion
                    if moved is not None and is_first:
                        moved = moved.all_new()
                    is_first = False
                    try:
                        pixels = to_rgb(
                            picture.frame, layout.width, layout.height, layout.orientation
                        )
                    except av.FFmpegError:
                        decoding.drop(picture)
                        continue
                    self.num_corrupt = decoding.num_corrupt
                    yield Frame(picture.index, picture.timestamp, pixels, moved)
            finally:
                self.num_corrupt = decoding.num_corrupt

    def __repr__(self) -> str:
        info = self.info
        rate = "still image" if info.is_image else f"{info.fps or 0:.4g} fps, {info.duration} s"
        return f"Video({info.path}, {info.width} x {info.height}, {info.codec}, {rate})"


class _Decoding:
    """One pass over a video stream: seek, decode, timestamp the frames, and detect damage.

    Args:
        layout: of the stream.
        fps: nominal frame rate.
        motion: export motion vectors (costs a little decoding time).
        skip_corrupt: count damaged frames instead of raising.
    """

    def __init__(
        self, path: Path, layout: Layout, fps: float, motion: bool, skip_corrupt: bool
    ) -> None:
        self.path, self.layout, self.fps = path, layout, fps
        self.motion, self.skip_corrupt = motion, skip_corrupt
        self.num_corrupt = 0
        self._damaged = False  # whether any damage was found so far
        self._failed_packets = 0  # consecutive packets that gave no frame
        self._num_intact = 0  # intact frames up to here

    def pictures(self, start: float = 0.0, first: int = 0) -> Generator[Picture, None, None]:
        """Decode to the end, from at or before second `start` and frame `first`.

        Raises:
            CorruptVideoError: damage from there on, unless `skip_corrupt`.
        """
        origin = self.layout.origin
        with ExitStack() as stack:
            opened = stack.enter_context(OpenStream.open(self.path, motion=self.motion))
            if first and (step := constant_step(opened.stream)) is not None:
                start = float(first * step)
            landed = None
            if start > 0:
                if origin is not None:
                    landed = seek(opened, start, origin)
                if landed is None:  # rewinding after a seek is not exact
                    opened = stack.enter_context(OpenStream.open(self.path, motion=self.motion))
            number, decoded = landed or (0, opened.decode())
            self._num_intact = number
            clock = Clock(opened.stream, origin, self.fps, index=number - 1)
            yield from self._intact(decoded, clock, start)
            self._check_end(opened, clock)

    def drop(self, picture: Picture) -> None:
        """Count a picture as corrupt whose colours cannot be converted to RGB.

        Raises:
            CorruptVideoError: unless `skip_corrupt`.
        """
        matrix = int(picture.frame.colorspace)
        self._damage(picture.index, f"its colours, matrix {matrix}, cannot be converted to RGB")
        self._num_intact -= 1
        self.num_corrupt += 1

    def _intact(self, decoded: Iterable[Decoded], clock: Clock, start: float) -> Iterator[Picture]:
        for item in decoded:
            expected = clock.index + 1
            if isinstance(item, av.FFmpegError):
                self._damage(expected, reason(item))
                self._failed_packets += 1
                continue
            frame, damaged = item
            self._damaged |= damaged
            picture = clock.stamp(frame, self._failed_packets if self._damaged else None)
            self.num_corrupt += picture.index - expected
            self._failed_packets = 0
            if not damaged:
                self._num_intact += 1
                if self.motion:
                    moved = MotionField.of(frame, self.layout.orientation)
                    picture = replace(picture, motion=moved)
                yield picture
            elif picture.timestamp >= start:  # frames before that are preroll of a seek
                self._damage(expected, "the decoder concealed errors in it")
                self.num_corrupt += 1

    def _damage(self, index: int, cause: str) -> None:
        """Record damage at frame `index`; raise unless `skip_corrupt`."""
        self._damaged = True
        if not self.skip_corrupt:
            short = missing_bytes(self.path)
            note = f"; {short} bytes are missing at the end of the file" if short else ""
            raise CorruptVideoError(
                f"{self.path}: frame {index} cannot be decoded ({cause}){note}; "
                "skip_corrupt=True leaves such frames out"
            )

    def _check_end(self, opened: OpenStream, clock: Clock) -> None:
        """Compare the frames decoded with the number that the file declares, at the end."""
        seen, short = clock.index + 1, missing_bytes(self.path)
        seconds, end = opened.duration or 0.0, 0.0 if clock.last is None else clock.last.end
        declared = 0
        if index_is_complete(opened.stream):
            declared = sum(not entry.is_discard for entry in opened.stream.index_entries)
            # The count is not enough: a stream may hold packets without a frame.
            ends_early = declared > seen and seconds - end > 0.5 / self.fps
            cut = ends_early or (short > 0 and declared > seen)
        else:
            cut = short > 0
            if (tagged := opened.tagged_end) is not None:
                # FFmpeg may not resynchronise after damage, and reports nothing.
                missing = tagged - float(self.layout.origin or 0) - end
                cut |= missing > (1.5 / self.fps if clock.steady else 1.0)
        if cut and not self.skip_corrupt:
            of = f" of {declared}" if declared else ""
            cause = f"{short} bytes are missing" if short else "its last frames are damaged"
            raise CorruptVideoError(
                f"{self.path}: ends early, at frame {seen}{of} ({cause}); "
                "skip_corrupt=True takes what is there"
            )
        if not (cut or self._damaged):
            return
        if declared:
            self.num_corrupt = max(0, declared - self._num_intact)
        elif clock.steady:
            self.num_corrupt += max(0, round(seconds * self.fps) - seen)
        else:
            self.num_corrupt += max(cut, self._failed_packets)
