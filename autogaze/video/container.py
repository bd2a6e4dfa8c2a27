"""Probing video files, and decoding their video stream."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.utils.device import num_cores
from autogaze.video.frames import Orientation
from autogaze.video.opening import (
    default_stream,
    index_is_complete,
    open_container,
    reason,
    video_stream,
)
from autogaze.video.stills import still_header
from autogaze.video.structure import missing_bytes, transport_unit_is_whole


@dataclass(frozen=True)
class ListedFrame:
    """A frame that is not decoded yet: what its packet tells.

    Args:
        number: among the displayed frames, from 0.
        pts, dts, duration: in ticks, as of a decoded frame.
    """

    number: int
    pts: int
    duration: int
    dts: int | None = None


Decoded = tuple[av.VideoFrame, bool] | av.FFmpegError
"""A frame and whether it is damaged, or the error of a packet that gave none."""

LARGEST_ASPECT = 10
"""Pixels that are wider or higher than this are taken for a mistake, and for square."""

SQUARE = Fraction(1, 100)
"""Aspects that differ less from 1 come from rounded sizes, and are taken for 1."""

MANY_PIXELS, MOST_THREADS = 2**22, 16
"""Frames of more pixels are decoded by no more threads than there are cores, and than FFmpeg takes."""

_TRANSFERS = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video or image file.

    Args:
        width, height: pixels as displayed: made square by widening or narrowing them, then
            rotated.
        rotation: degrees counter-clockwise the stored frames are turned: 0, 90, 180, 270.
        fps: average frame rate; None for an image.
        duration: seconds; None for an image or where the container does not tell.
        num_frames: number of displayed frames by the container's index, or else by rate and
            duration, an estimate; None if unknown. `Video.count_frames` is exact.
        codec: FFmpeg's name of it, such as "h264".
        pixel_format: FFmpeg's name of it, such as "yuv420p"; Pillow's mode of an image.
        is_image: whether this is a still image, a video of one frame.
        aspect: width of a stored pixel by its height.
        hdr: "PQ" or "HLG" of a high dynamic range, which is tone-mapped to BT.709; None of others.
        stream: number of the video stream among the file's `num_streams`, from 0.
        by_default: whether it is the one that is taken where none is chosen.
    """

    path: str
    width: int
    height: int
    rotation: int
    fps: float | None
    duration: float | None
    num_frames: int | None
    codec: str
    pixel_format: str
    is_image: bool = False
    aspect: Fraction = Fraction(1)
    hdr: str | None = None
    stream: int = 0
    num_streams: int = 1
    by_default: bool = True

    @property
    def rate(self) -> float:
        """Frames per second; 25 for images and for streams that do not tell."""
        return self.fps or 25.0


@dataclass(frozen=True)
class Layout:
    """Properties of a stream for decoding, besides its `VideoInfo`.

    Args:
        origin: seconds of the first frame on the stream's clock; None without timestamps.
        orientation: rotation and flips for display.
        width, height: pixels before `orientation` is applied, made square.
        tick: resolution of the container's timestamps in seconds.
    """

    origin: Fraction | None
    orientation: Orientation
    width: int
    height: int
    tick: float


def probe(path: Path, stream: int | None = None) -> tuple[VideoInfo, Layout | None]:
    """Properties of a file, from its header and first frame; the layout is None for an image.

    Args:
        stream: number of a video stream, see `video_stream`.

    Raises:
        VideoError: missing, a folder, a pipe, not a video, no video stream, no frames.
    """
    if path.is_file() and (still := still_header(path)) is not None:
        if stream not in (None, 0):
            raise VideoError(f"{path}: is an image, which has no video stream {stream}")
        image = VideoInfo(
            str(path),
            still.width,
            still.height,
            still.rotation,
            fps=None if still.duration is None else still.num_frames / still.duration,
            duration=still.duration,
            num_frames=still.num_frames,
            codec=still.format,
            pixel_format=still.mode,
            is_image=still.num_frames == 1,
        )
        return image, None
    with OpenStream.open(path, stream) as opened:
        return describe(opened)


def describe(opened: "OpenStream") -> tuple[VideoInfo, Layout]:
    """Properties of a stream that has just been opened; decodes its first frame."""
    path, stream = opened.path, opened.stream
    frame = _first_frame(opened)
    tick, pts = stream.time_base, frame.dts if frame.pts is None else frame.pts
    origin = None if pts is None or tick is None else pts * tick
    aspect = _aspect(stream)
    stored = max(1, round(frame.width * aspect)), frame.height
    orientation = Orientation.of(frame)
    width, height = orientation.size(*stored)
    duration = opened.duration
    if opened.ends_by_the_clock and duration is not None and origin is not None:
        duration = max(0.0, duration - float(origin))
    rate = stream.average_rate or stream.guessed_rate
    num_frames = opened.num_indexed or stream.frames or None
    if num_frames and num_frames != stream.frames and opened.without_pts and duration:
        rate = Fraction(num_frames / duration).limit_denominator(1001)  # empty packets not counted
    if num_frames is None and duration is not None and rate:
        num_frames = max(1, round(duration * rate))
    info = VideoInfo(
        str(path),
        width,
        height,
        orientation.rotation,
        float(rate) if rate else None,
        duration,
        num_frames,
        stream.codec_context.codec.canonical_name,
        frame.format.name,
        aspect=aspect,
        hdr=_TRANSFERS.get(int(frame.color_trc)),
        stream=opened.container.streams.video.index(stream),
        num_streams=len(opened.container.streams.video),
        by_default=stream == default_stream(opened.container),
    )
    return info, Layout(origin, orientation, *stored, float(tick) if tick else 0.0)


def _aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel by its height; 1 where that is unknown or cannot be."""
    aspect = stream.sample_aspect_ratio
    if not aspect or abs(aspect - 1) < SQUARE:
        return Fraction(1)
    if not Fraction(1, LARGEST_ASPECT) <= aspect <= LARGEST_ASPECT:
        return Fraction(1)
    return aspect


def _first_frame(opened: "OpenStream") -> av.VideoFrame:
    """The first frame that can be decoded."""
    cause = "the stream is empty"
    for item in opened.decode():
        if not isinstance(item, av.FFmpegError):
            return item[0]
        cause = reason(item)
    if short := missing_bytes(opened.path):
        raise CorruptVideoError(
            f"{opened.path}: frame 0 cannot be decoded: the file is cut short by {short} bytes"
        )
    raise VideoError(f"{opened.path}: not one frame can be decoded ({cause})")


class PacketOrigin(NamedTuple):
    """Origin of a decoded frame: the byte where its packet begins, and whether that is damaged."""

    position: int | None
    corrupt: bool


@dataclass(frozen=True, eq=False)
class OpenStream:
    """A video stream of a file while it is open."""

    path: Path
    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, stream: int | None = None, *, motion: bool = False
    ) -> Iterator["OpenStream"]:
        """Open a file to decode a video stream of it, with motion vectors if asked for.

        Raises:
            VideoError: see `open_container` and `video_stream`; or there is no video that can
                be decoded.
        """
        with (
            open_container(path) as container,
            cls.of(container, path, stream, motion=motion) as opened,
        ):
            yield opened

    @classmethod
    def of(
        cls,
        container: InputContainer,
        path: Path,
        stream: int | None = None,
        *,
        motion: bool = False,
    ) -> "OpenStream":
        """A video stream of an open container, to be used in a `with` block; `path` is for messages."""
        chosen = video_stream(container, path, stream)
        if chosen.codec_context is None:
            raise VideoError(f"{path}: this FFmpeg has no decoder for its video stream")
        return cls(path, container, chosen, _decoder(chosen, motion))

    def __enter__(self) -> "OpenStream":
        return self

    def __exit__(self, *exception: object) -> None:
        # A decoder must not be freed while its threads are at work: PyAV holds Python's lock while
        # it waits for them, and they wait for the lock to let go of a packet's `opaque`. Flushing
        # waits for them without the lock.
        self.decoder.flush_buffers()

    @property
    def duration(self) -> float | None:
        """Seconds of the stream, or else of the file; None if neither is written."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        duration = self.container.duration
        return None if duration is None else duration / 1_000_000

    @property
    def stream_end(self) -> float | None:
        """End of an MP4's stream in seconds of its clock; None if it is not written."""
        stream = self.stream
        if "mp4" not in self.container.format.name or stream.time_base is None:
            return None
        if stream.duration is None or stream.start_time is None:
            return None
        return float((stream.start_time + stream.duration) * stream.time_base)

    @property
    def ends_by_the_clock(self) -> bool:
        """Whether the duration is written as the clock's time at the end (Matroska, WebM, FLV)."""
        return self.container.format.name.startswith(("matroska", "flv"))

    @property
    def without_pts(self) -> bool:
        """Whether packets have no display times of their own, only their order: AVI, and H.264 in MXF."""
        container, codec = (
            self.container.format.name,
            self.stream.codec_context.codec.canonical_name,
        )
        return container == "avi" or (container == "mxf" and codec in ("h264", "hevc"))

    @property
    def num_indexed(self) -> int | None:
        """Displayed frames by the container's index; None unless it lists all of them."""
        entries = self.stream.index_entries
        if self.without_pts and len(entries) > 0:
            return sum(entry.size > 0 for entry in entries) or None
        if index_is_complete(self.stream):
            return sum(not entry.is_discard for entry in entries)
        return None

    @property
    def tagged_end(self) -> float | None:
        """End of a Matroska or WebM stream in seconds of its clock, by its DURATION tag."""
        written = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self.stream.metadata.get("DURATION", ""))
        if written is None:
            return None
        return 3600 * int(written[1]) + 60 * int(written[2]) + float(written[3])

    def decode(self) -> Iterator[Decoded]:
        """Decode from here to the end, in display order.

        Errors are yielded, since decoding can often continue after one. `pts` of a frame is when
        it is displayed, or None where nothing tells; `opaque` is its `PacketOrigin`.
        """
        packets = self.container.demux(self.stream)
        order = _DisplayOrder(self.decoder) if self.without_pts else None
        suspect = False
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                yield error
                return
            if packet is None:
                return
            # FFmpeg's parsers mark the packet before the damaged one, so both are looked at.
            hurt = (packet.is_corrupt or suspect) and self._is_hurt(packet)
            suspect = packet.is_corrupt
            packet.opaque = PacketOrigin(packet.pos, hurt)
            if order is not None:
                order.add(packet)
            try:
                frames = self.decoder.decode(packet)
            except av.FFmpegError as error:
                if order is not None:
                    order.shown += 1
                yield error
                continue
            for frame in frames:
                if order is not None:
                    frame.pts = order.next_time()
                origin = frame.opaque
                corrupt = isinstance(origin, PacketOrigin) and origin.corrupt
                yield frame, frame.is_corrupt or corrupt

    def _is_hurt(self, packet: av.Packet) -> bool:
        """Whether a packet is damaged that FFmpeg suspects, or that follows such a one."""
        if self.container.format.name != "mpegts" or packet.pos is None or not self.path.is_file():
            return packet.is_corrupt
        return not transport_unit_is_whole(self.path, packet.pos)


@dataclass
class _DisplayOrder:
    """Display times by the order of packets alone.

    Frames are displayed in the order of the decoding times of all packets, later by as many
    packets as the decoder has to wait for frames that are displayed earlier.
    """

    decoder: VideoCodecContext
    times: list[int] = field(default_factory=list)
    shown: int = 0
    last: int | None = None

    def add(self, packet: av.Packet) -> None:
        if packet.size and packet.dts is not None:
            self.times.append(packet.dts)

    def next_time(self) -> int | None:
        """Display time of the next frame, in ticks."""
        place = self.shown + self.decoder.reorder_depth
        self.shown += 1
        if place < len(self.times):
            self.last = self.times[place]
        elif self.last is not None:
            steps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
            self.last += max(1, round(median(steps or [1])))
        return self.last


def _decoder(stream: VideoStream, motion: bool) -> VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # FFmpeg's own VP8 and VP9 decoders drop the alpha channel, libvpx keeps it.
        decoder = VideoCodecContext.create("libvpx" if decoder.name == "vp8" else "libvpx-vp9", "r")
    decoder.copy_opaque = True
    decoder.thread_type = "AUTO"  # type: ignore[assignment]
    if stream.width * stream.height > MANY_PIXELS:
        # FFmpeg takes one more, with a frame and tables of its own: at 4K 20 MiB, and no faster.
        decoder.thread_count = min(num_cores(), MOST_THREADS)
    if motion:
        # Frames in parallel would export vectors of frames that are still being decoded.
        decoder.thread_type = "SLICE"  # type: ignore[assignment]
        decoder.options = {"flags2": "+export_mvs"}
    return decoder
