"""Opening a file and a video stream of it, and decoding its packets.

FFmpeg's errors become messages that name the file and the cause.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image

from autogaze.checks import as_path, why_absent
from autogaze.errors import CorruptVideoError, VideoError
from autogaze.utils.device import num_cores
from autogaze.video.structure import (
    animated_avif_brand,
    boxes,
    heif_brand,
    missing_bytes,
    transport_unit_is_whole,
)

MANY_PIXELS, MOST_THREADS = 2**22, 16
"""Frames of more pixels are decoded by no more threads than there are cores, and than FFmpeg takes."""


def local_path(path: str | Path) -> Path:
    """The path of a local file.

    Raises:
        VideoError: a URL, or what is no path.
    """
    local = as_path(path, VideoError)
    if isinstance(path, str) and re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://", path, re.I):
        raise VideoError(f"{path}: is a URL; files of this machine are read, so download it first")
    return local


def open_container(path: Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        VideoError: missing, a folder, a pipe, unreadable, empty, or nothing FFmpeg knows.
        CorruptVideoError: an animated AVIF that Pillow cannot read.
    """
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file")
    if not path.exists():
        raise VideoError(f"{path}: {why_absent(path)}")
    if not path.is_file():
        raise VideoError(
            f"{path}: is a pipe or a device, of which one cannot read twice; save it to a file first"
        )
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    if animated_avif_brand(path):
        if _pillow_reads_avif():  # and has not read this one
            short = missing_bytes(path)
            cause = f"cut short by {short} bytes" if short else "damaged"
            raise CorruptVideoError(f"{path}: the animation is {cause}, and cannot be read")
        raise VideoError(
            f"{path}: is an animated AVIF, of which FFmpeg reads the first picture alone; "
            "pip install 'pillow>=11.3', which reads all of it"
        )
    try:
        # Absolute, since FFmpeg takes what stands before a colon for a protocol.
        container = av.open(os.path.abspath(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if "moov" not in (kinds := [kind for kind, _ in boxes(path)]) and "ftyp" in kinds:
            cause = (
                "its index (moov) is missing: the file was cut short, or its recording or "
                "download never finished"
            )
        elif isinstance(error, PermissionError):
            cause = "permission denied"
        else:
            cause = f"not a video that FFmpeg can read ({reason(error)})"
        raise VideoError(f"{path}: {cause}") from error
    if heif_brand(path) and len(container.streams.video) > 1:
        tiles = len(container.streams.video)
        container.close()
        raise VideoError(
            f"{path}: is an HEIC picture of {tiles} parts, which the extra `heif` reads: "
            "pip install 'autogaze[heif]', or convert it to JPEG"
        )
    return container


def _pillow_reads_avif() -> bool:
    Image.init()  # registers all formats, once
    if "AVIF" not in Image.OPEN:
        return False
    # It may be registered by a build of Pillow that has no decoder: then its module says so.
    plugin = sys.modules[Image.OPEN["AVIF"][0].__module__]
    return bool(getattr(plugin, "SUPPORTED", True))


def reason(error: Exception) -> str:
    """FFmpeg's or the system's own words for an error, without numbers and paths."""
    return str(getattr(error, "strerror", None) or error).rstrip(":. ")


_NOT_SHOWN = (
    Disposition.attached_pic
    | Disposition.timed_thumbnails
    | Disposition.dependent
    | Disposition.still_image
)


def video_stream(container: InputContainer, path: Path, number: int | None = None) -> VideoStream:
    """A video stream of a file.

    Args:
        path: for messages.
        number: among the video streams, from 0, cover pictures included; None for the default:
            no cover picture, marked as default, the largest one, the first one, in this order.

    Raises:
        VideoError: there is none.
    """
    streams = container.streams.video
    if number is not None:
        if not 0 <= number < len(streams):
            known = f"it has {len(streams)}, numbered from 0" if streams else "it has none"
            raise VideoError(f"{path}: no video stream {number} in it, {known}")
        return streams[number]
    if (found := default_stream(container)) is not None:
        return found
    kinds: list[str] = sorted({one.type for one in container.streams if one.type != "video"})
    kinds += ["a cover picture"] if streams else []
    raise VideoError(f"{path}: no video stream in it, only {' and '.join(kinds) or 'nothing'}")


def default_stream(container: InputContainer) -> VideoStream | None:
    """The video stream that is taken where none is chosen; None if all are cover pictures."""
    streams = container.streams.video
    moving = [one for one in streams if not one.disposition & Disposition.attached_pic]
    shown = [one for one in moving if not one.disposition & _NOT_SHOWN] or moving
    return max(shown, key=_preference, default=None)


def _preference(stream: VideoStream) -> tuple[bool, int, int]:
    context = stream.codec_context
    pixels = 0 if context is None else context.width * context.height
    return bool(stream.disposition & Disposition.default), pixels, -stream.index


def index_is_complete(stream: VideoStream) -> bool:
    """Whether the container's index has an entry for every frame (MP4 and its relatives)."""
    container = stream.container
    if "mp4" not in container.format.name or not len(stream.index_entries) == stream.frames > 0:
        return False
    path = Path(str(container.name))
    return not path.is_file() or all(kind != "moof" for kind, _ in boxes(path))


# Decoding.


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


_NO_TIMESTAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS

Decoded = tuple[av.VideoFrame, bool] | av.FFmpegError
"""A frame and whether it is damaged, or the error of a packet that gave none."""


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
        if self.is_raw:
            return None
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
    def is_raw(self) -> bool:
        """Whether the file is a bare stream, without any times: FFmpeg's come from guessed rates."""
        return bool(self.container.format.flags & _NO_TIMESTAMPS)

    def clock_start(self, origin: float) -> float:
        """Second of the clock that such a duration counts from; frames begin at second `origin`."""
        if not self.container.format.name.startswith("flv") or self.stream.time_base is None:
            return 0.0
        # FLV written by FFmpeg: the first key frame's decoding time. The header is indexed, too, at 0.
        times = (float(one.timestamp * self.stream.time_base) for one in self.stream.index_entries)
        return max((time for time in times if time <= origin), default=0.0)

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
    def num_declared(self) -> int | None:
        """Frames by the header alone; that of a fragmented MP4 counts those before the fragments."""
        frames, entries = self.stream.frames, self.stream.index_entries
        fragments_follow = not index_is_complete(self.stream) and frames <= len(entries)
        if "mp4" in self.container.format.name and fragments_follow:
            return None
        return frames or None

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
        suspect, may_be_cut = False, self._hides_cuts()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                yield error
                return
            if packet is None:
                return
            if packet.size == 0 and packet.dts is not None and self._repeats_by_empty_packets:
                continue
            # FFmpeg's parsers mark the packet before the damaged one, so both are looked at.
            hurt = (packet.is_corrupt or suspect) and self._is_hurt(packet)
            hurt = hurt or (may_be_cut and self._is_cut(packet))
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

    @property
    def _repeats_by_empty_packets(self) -> bool:
        """Whether empty packets, which decoders refuse, leave the frame before on screen (Theora).

        In MP4 they are damage: its index counts them as frames.
        """
        return "mp4" not in self.container.format.name

    def _hides_cuts(self) -> bool:
        """Whether the last picture may have no end, and a decoder that makes up the rest without a word."""
        if self.container.format.name == "gif":
            return self.path.is_file() and missing_bytes(self.path) > 0
        return self.container.format.name in ("mjpeg", "jpeg_pipe")

    def _is_cut(self, packet: av.Packet) -> bool:
        """Whether a picture has no end, of formats of which this is not told."""
        if packet.size == 0:
            return False
        if self.container.format.name == "gif":
            return memoryview(packet)[-1] not in b"\0;"
        return b"\xff\xd9" not in bytes(memoryview(packet)[-1024:])

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
