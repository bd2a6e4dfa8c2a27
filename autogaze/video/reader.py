"""Reading the frames of a video file, one at a time.

```python
video = Video("long.mp4")
for frame in video.frames(start=3600, fps=2):
    frame.pixels  # (H, W, 3) uint8 RGB, as displayed
```

Memory does not grow with the video, and a late start costs a seek, not a decode.
Nothing stays open between two loops over `frames`.
"""

import itertools
import logging
import math
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
import torch
from jaxtyping import UInt8

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import (
    Decoded,
    ListedFrame,
    OpenStream,
    index_is_complete,
    local_path,
    reason,
)
from autogaze.video.decoders import DecoderName, is_wanted
from autogaze.video.frames import Layout, RGBConverter, VideoInfo, probe
from autogaze.video.motion import MotionField, check_motion
from autogaze.video.stills import read_pages
from autogaze.video.structure import matroska_is_whole, missing_bytes
from autogaze.video.timestamps import (
    ROUNDING,
    Clock,
    FrameRange,
    Picture,
    constant_step,
    count_frames,
    only,
    sample,
    seek,
)
from autogaze.video.torchcodec import FrameTable, TorchcodecError

log = logging.getLogger(__name__)

LEAVES_OUT = "skip_corrupt=True leaves such frames out"
"""What errors of damaged frames advise."""
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
    """A video file, or an image file as a video of its pictures.

    Args:
        path: a local file that can be read more than once.
        stream: number of the video stream, from 0; None for the default one (marked as such,
            or else the largest).
        decoder: "pyav", "torchcodec" or "auto", which is torchcodec where frames go to a CUDA GPU,
            it is installed and gives what PyAV does, and else PyAV.
        device: where the frames go; None for the CPU. A GPU decodes by its own decoder.

    Attributes:
        info: size, rate, duration and formats.
        decoded_by: "pyav" or "torchcodec": what decoded the last frame.
        num_corrupt: frames that the last loop over `frames` skipped.
        end: second at which the last frame of the last loop, when it is over, leaves the screen.

    Raises:
        VideoError: missing, a folder, a pipe, a URL, not a video, no such stream, no frames; or
            torchcodec is asked for, and is not there or cannot decode this file as PyAV does.
    """

    info: VideoInfo
    num_corrupt: int
    end: float

    def __init__(
        self,
        path: str | Path,
        *,
        stream: int | None = None,
        decoder: DecoderName = "auto",
        device: torch.device | None = None,
    ) -> None:
        self._path = local_path(path)
        self._decoder, self._device = decoder, device
        self._by_torchcodec = is_wanted(decoder, device)
        self.decoded_by: Literal["pyav", "torchcodec"] = "pyav"
        try:
            self.info, self._layout = probe(self._path, stream)
        except OSError as error:  # a name that is too long, a loop of links, a broken disk
            raise VideoError(f"{path}: cannot be opened: {error.strerror or error}") from error
        if self._layout is None and decoder == "torchcodec":
            raise TorchcodecError(
                f"{path}: is an image, which torchcodec does not read; leave decoder at auto, or take pyav"
            )
        self.num_corrupt, self.end = 0, 0.0

    def frames(
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        first: int | None = None,
        last: int | None = None,
        fps: float | None = None,
        numbers: Collection[int] | None = None,
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
            numbers: of those, only the frames with these numbers; colours of the others are not
                converted.
            skip_corrupt: skip damaged frames and count them in `num_corrupt`, instead of raising.
            motion: fill `Frame.motion`; only some codecs can (see `video.motion`).

        Raises:
            VideoError: an invalid range or rate, a range without frames, or motion of a codec
                that exports none.
            CorruptVideoError: a damaged or truncated stream, after the frames before the damage.
        """
        frame_range = FrameRange(start, end, first, last, fps)
        if motion:
            check_motion(self.info.codec, self.info.path)
        return self._frames(frame_range, numbers, skip_corrupt, motion)

    def count_frames(self) -> int:
        """Number of displayed frames, which takes reading the file where it has no index."""
        if self._layout is None:
            return self.info.num_frames or 1
        with OpenStream.open(self._path, self.info.stream) as opened:
            return count_frames(opened)

    def _frames(
        self,
        frame_range: FrameRange,
        numbers: Collection[int] | None,
        skip_corrupt: bool,
        motion: bool,
    ) -> Iterator[Frame]:
        self.num_corrupt, self.end = 0, 0.0
        frames = (
            self._pages(frame_range, numbers, skip_corrupt)
            if self._layout is None
            else self._by_choice(self._layout, frame_range, numbers, skip_corrupt, motion)
        )
        given = itertools.count()
        # Suspended, a loop would keep the frame that it gave last: at 4K, 24 MiB. `map` does not.
        yield from map(lambda frame, _: frame, frames, given)
        if next(given) == 0:
            length = "" if self.info.duration is None else f"; it lasts {self.info.duration:g} s"
            frames_there = f"{self.info.num_frames or 'an unknown number of'} frames"
            raise VideoError(
                f"{self._path}: no frame lies in {frame_range}: the video has {frames_there}{length}"
            )

    def _pages(
        self, frame_range: FrameRange, numbers: Collection[int] | None, skip_corrupt: bool
    ) -> Iterator[Frame]:
        """The pictures of an image file."""

        def pictures() -> Iterator[Picture]:
            for index, page in enumerate(read_pages(self._path)):
                if isinstance(page, CorruptVideoError):
                    if not skip_corrupt or index == 0:
                        raise page
                    self.num_corrupt += max(1, (self.info.num_frames or 1) - index)
                    return
                yield Picture(index, page.timestamp, page.duration, page.pixels)

        for picture in only(sample(self._until(pictures(), frame_range), frame_range), numbers):
            pixels = cast("np.ndarray", picture.frame)
            yield Frame(picture.index, picture.timestamp, pixels)

    def _by_choice(
        self,
        layout: Layout,
        frame_range: FrameRange,
        numbers: Collection[int] | None,
        skip_corrupt: bool,
        motion: bool,
    ) -> Iterator[Frame]:
        """Frames by torchcodec, if it is to be tried, and from where it fails on by PyAV."""
        last = -1
        new_decoding = partial(_Decoding, self._path, self.info, layout, motion, skip_corrupt)
        if self._by_torchcodec:
            decoding = new_decoding(by_torchcodec=True, device=self._device)
            try:
                for frame in self._decoded(decoding, frame_range, numbers):
                    self.decoded_by, last = "torchcodec", frame.index
                    yield frame
                    del frame
                return
            except TorchcodecError as error:
                if self._decoder != "auto":
                    raise
                log.info("%s", error)
        decoding = new_decoding()

        def is_new(frame: Frame) -> bool:
            if frame.index <= last:
                return False
            self.decoded_by = "pyav"
            return True

        yield from filter(is_new, self._decoded(decoding, frame_range, numbers))

    def _decoded(
        self, decoding: "_Decoding", frame_range: FrameRange, numbers: Collection[int] | None
    ) -> Iterator[Frame]:
        layout = decoding.layout
        to_rgb = RGBConverter(layout, tone_map=self.info.hdr is not None)
        # More than half a tick, since 24000/1001 frames per second lie halfway between two ticks.
        slack = min(layout.tick / 2, _LARGEST_SLACK) + ROUNDING
        is_first = True
        made = decoding.pictures(frame_range.start or 0.0, frame_range.first or 0)
        with closing(made) as pictures:
            try:
                sampled = sample(self._until(pictures, frame_range), frame_range, slack)
                for picture in only(sampled, numbers):
                    moved = picture.motion
                    if moved is not None and is_first:
                        moved = moved.all_new()
                    is_first = False
                    try:
                        if decoding.table is None:
                            pixels = to_rgb(cast("av.VideoFrame", picture.frame))
                        else:
                            pixels = decoding.table.pixels(cast("ListedFrame", picture.frame))
                    except av.FFmpegError:
                        decoding.drop(picture)
                        continue
                    self.num_corrupt = decoding.num_corrupt
                    frame = [Frame(picture.index, picture.timestamp, pixels, moved)]
                    del picture, pixels, moved
                    yield frame.pop()  # not kept while it is in use
            finally:
                self.num_corrupt = decoding.num_corrupt
        if decoding.end is not None and self.end == decoding.last_end:  # nothing came behind
            self.end = min(decoding.end, math.inf if frame_range.end is None else frame_range.end)

    def _until(self, pictures: Iterable[Picture], frame_range: FrameRange) -> Iterator[Picture]:
        """The same pictures; `end` follows those in the range."""
        end = math.inf if frame_range.end is None else frame_range.end
        last = math.inf if frame_range.last is None else frame_range.last
        for picture in pictures:
            if picture.timestamp < end and picture.index <= last:
                self.end = min(picture.end, end)
            else:
                self.end = min(picture.timestamp, end)
            yield picture

    def __repr__(self) -> str:
        info = self.info
        rate = "still image" if info.is_image else f"{info.fps or 0:.4g} fps, {info.duration} s"
        return f"Video({info.path}, {info.width} x {info.height}, {info.codec}, {rate})"


class _Decoding:
    """One pass over a video stream: seek, decode, timestamp the frames, and detect damage.

    Args:
        motion: export motion vectors (costs a little decoding time).
        skip_corrupt: count damaged frames instead of raising.
        by_torchcodec, device: whether torchcodec decodes, and where.

    Attributes:
        table: torchcodec's frames, once the stream is open.
        num_corrupt: damaged frames so far.
        last_end: second at which the last picture leaves the screen by its own duration.
        end: the same by the container; None before the stream is over.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        layout: Layout,
        motion: bool,
        skip_corrupt: bool,
        *,
        by_torchcodec: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.path, self.layout, self.info = path, layout, info
        self.motion, self.skip_corrupt = motion, skip_corrupt
        self.by_torchcodec, self.device = by_torchcodec, device
        self.fps = info.rate
        self.table: FrameTable | None = None
        self.num_corrupt = 0
        self.last_end = 0.0
        self.end: float | None = None
        self._damaged = False  # whether any damage was found so far
        self._failed_packets = 0  # consecutive packets that gave no frame
        self._num_intact = 0  # intact frames up to here

    def pictures(self, start: float = 0.0, first: int = 0) -> Generator[Picture, None, None]:
        """Decode to the end, from at or before second `start` and frame `first`.

        Raises:
            CorruptVideoError: damage from there on, unless `skip_corrupt`.
        """
        origin, motion = self.layout.origin, self.motion
        open_anew = partial(OpenStream.open, self.path, self.info.stream, motion=motion)
        decoded: Iterable[Decoded | tuple[ListedFrame, bool]]
        with ExitStack() as stack:
            opened = stack.enter_context(open_anew())
            number, decoded = 0, opened.decode()
            if self.by_torchcodec:  # decodes no frames that nobody asks for: no need to seek
                self.table = FrameTable(
                    opened, self.info, self.layout, motion=motion, device=self.device
                )
                decoded = self.table.decode()
            else:
                if first and (step := constant_step(opened.stream)) is not None:
                    start = float(first * step)
                if start > 0:
                    landed = None if origin is None else seek(opened, start, origin)
                    if landed is None:  # rewinding after a seek is not exact
                        opened = stack.enter_context(open_anew())
                    number, decoded = landed or (0, opened.decode())
            self._num_intact = number
            clock = Clock(opened.stream, origin, self.fps, index=number - 1)
            yield from self._intact(decoded, clock, start)
            self._check_end(opened, clock)

    def drop(self, picture: Picture) -> None:
        """Count a picture as corrupt whose colours cannot be converted; raise unless `skip_corrupt`."""
        matrix = int(cast("av.VideoFrame", picture.frame).colorspace)
        self._damage(picture.index, f"its colours, matrix {matrix}, cannot be converted to RGB")
        self._num_intact -= 1
        self.num_corrupt += 1

    def _intact(
        self, decoded: Iterable[Decoded | tuple[ListedFrame, bool]], clock: Clock, start: float
    ) -> Iterator[Picture]:
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
                    size = self.layout.width, self.layout.height
                    moved = MotionField.of(frame, self.layout.orientation, size)  # type: ignore[arg-type]
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
                f"{self.path}: frame {index} cannot be decoded ({cause}){note}; {LEAVES_OUT}"
            )

    def _check_end(self, opened: OpenStream, clock: Clock) -> None:
        """Compare the frames decoded with what the file declares, at the end."""
        seen, short = clock.index + 1, missing_bytes(self.path)
        seconds, end = opened.duration or 0.0, 0.0 if clock.last is None else clock.last.end
        origin = float(self.layout.origin or 0)
        self.last_end = self.end = end
        declared = opened.num_indexed or 0
        if index_is_complete(opened.stream):
            # The count is not enough: a stream may hold packets without a frame.
            ends_early = declared > seen and seconds - end > 0.5 / self.fps
            cut = ends_early or (short > 0 and declared > seen)
        else:
            cut = short > 0
            if (tagged := opened.tagged_end) is not None and tagged - origin > end + 1e-3:
                # Either the last frame is shown that long, or FFmpeg met damage behind which it
                # found nothing more, and reports nothing.
                if tagged - origin - end > 1.5 / self.fps and not matroska_is_whole(self.path):
                    cut = True
                else:
                    self.end = tagged - origin
            elif opened.without_pts or opened.container.format.name == "ogg":
                self.end = max(end, seconds)
                declared = 0  # its header is not to be relied on
        if clock.last is not None and not cast("av.VideoFrame", clock.last.frame).duration:
            written = opened.stream_end
            if written is not None and written - origin > clock.last.timestamp:
                self.end = written - origin
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
        elif clock.steady and seconds:
            self.num_corrupt += max(0, round(seconds * self.fps) - seen)
        else:
            self.num_corrupt += max(cut, self._failed_packets)
