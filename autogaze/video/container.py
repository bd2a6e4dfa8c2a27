"""Probing video files, and opening their video stream for decoding.

FFmpeg's errors become messages that name the file and the cause. The container's header is parsed
for the size that the file should have, which FFmpeg does not tell: truncated files are found
without decoding them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.frames import Orientation
from autogaze.video.stills import still_header

Decoded = tuple[av.VideoFrame, bool] | av.FFmpegError
"""A frame and whether it is damaged, or the error of a packet that gave none."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video or image file.

    Args:
        path: the file.
        width, height: pixels as displayed, rotation applied (non-square pixels are
            left as they are stored).
        rotation: degrees counter-clockwise the stored frames are turned: 0, 90, 180, 270.
        fps: average frame rate; None for an image.
        duration: seconds; None for an image or where the container does not tell.
        num_frames: number of frames as the container says or by rate and duration, an
            estimate; None if unknown.
        codec: FFmpeg's name of it, such as "h264".
        pixel_format: FFmpeg's name of it, such as "yuv420p"; Pillow's mode of an image.
        is_image: whether this is a still image, a video of one frame.
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
        width, height: stored pixels.
        tick: resolution of the container's timestamps in seconds.
    """

    origin: Fraction | None
    orientation: Orientation
    width: int
    height: int
    tick: float


def probe(path: Path) -> tuple[VideoInfo, Layout | None]:
    """Properties of a file, from its header and first frame; the layout is None for an image.

    Raises:
        VideoError: missing, a folder, not a video, no video stream, no frames.
    """
    if path.is_file() and (still := still_header(path)) is not None:
        image = VideoInfo(
            str(path),
            still.width,
            still.height,
            still.rotation,
            fps=None,
            duration=None,
            num_frames=1,
            codec=still.format,
            pixel_format=still.mode,
            is_image=True,
        )
        return image, None
    with OpenStream.open(path) as opened:
        stream, frame = opened.stream, _first_frame(opened)
        orientation = Orientation.of(frame)
        width, height = orientation.size(frame.width, frame.height)
        rate, duration = stream.average_rate or stream.guessed_rate, opened.duration
        num_frames: int | None = stream.frames or None
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
        )
        tick = stream.time_base
        pts = frame.dts if frame.pts is None else frame.pts
        origin = None if pts is None or tick is None else pts * tick
        return info, Layout(
            origin, orientation, frame.width, frame.height, float(tick) if tick else 0.0
        )


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


@dataclass(frozen=True, eq=False)
class OpenStream:
    """The video stream of a file while it is open."""

    path: Path
    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, motion: bool = False) -> Iterator["OpenStream"]:
        """Open a file to decode its video, with motion vectors if asked for.

        Raises:
            VideoError: see `open_container`; or there is no video that can be decoded.
        """
        with open_container(path) as container:
            stream = video_stream(container, path)
            if stream.codec_context is None:
                raise VideoError(f"{path}: this FFmpeg has no decoder for its video stream")
            yield cls(path, container, stream, _decoder(stream, motion))

    @property
    def duration(self) -> float | None:
        """Seconds of the stream, or else of the file; None if neither is written."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        duration = self.container.duration
        return None if duration is None else duration / 1_000_000

    @property
    def tagged_end(self) -> float | None:
        """End of a Matroska or WebM stream in seconds of its clock, by its DURATION tag."""
        written = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self.stream.metadata.get("DURATION", ""))
        if written is None:
            return None
        return 3600 * int(written[1]) + 60 * int(written[2]) + float(written[3])

    def decode(self) -> Iterator[Decoded]:
        """Decode from here to the end, in display order.

        Errors are yielded, since decoding can often continue after one.
        """
        packets = self.container.demux(self.stream)
        corrupt = set()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                yield error
                return
            if packet is None:
                return
            if packet.is_corrupt and packet.pts is not None:
                corrupt.add(packet.pts)
            try:
                frames = self.decoder.decode(packet)
            except av.FFmpegError as error:
                yield error
                continue
            for frame in frames:
                yield frame, frame.is_corrupt or frame.pts in corrupt
                corrupt.discard(frame.pts)


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoError(f"{path}: no video stream in it, only {kinds}")


def _decoder(stream: VideoStream, motion: bool) -> VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # FFmpeg's own VP8 and VP9 decoders drop the alpha channel, libvpx keeps it.
        decoder = VideoCodecContext.create("libvpx" if decoder.name == "vp8" else "libvpx-vp9", "r")
    decoder.thread_type = "AUTO"  # type: ignore[assignment]
    if motion:
        # Frames in parallel would export vectors of frames that are still being decoded.
        decoder.thread_type = "SLICE"  # type: ignore[assignment]
        decoder.options = {"flags2": "+export_mvs"}
    return decoder


def open_container(path: Path) -> InputContainer:
    """Open a file for reading.

    Raises:
        VideoError: missing, a folder, unreadable, empty, or nothing FFmpeg knows.
    """
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file")
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        return av.open(str(path), metadata_errors="replace")  # titles in any encoding
    except (av.FFmpegError, OSError) as error:
        if "moov" not in (boxes := [kind for kind, _ in _boxes(path)]) and "ftyp" in boxes:
            cause = (
                "its index (moov) is missing: the file was cut short, or its recording or "
                "download never finished"
            )
        elif isinstance(error, PermissionError):
            cause = "permission denied"
        else:
            cause = f"not a video that FFmpeg can read ({reason(error)})"
        raise VideoError(f"{path}: {cause}") from error


def reason(error: Exception) -> str:
    """FFmpeg's or the system's own words for an error, without numbers and paths."""
    return str(getattr(error, "strerror", None) or error).rstrip(":. ")


def missing_bytes(path: Path) -> int:
    """Bytes by which the file is shorter than its header says; 0 if it does not say."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"RIFF":
        expected = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":
        expected = _matroska_size(head)
    else:
        expected = max((end for _, end in _boxes(path)), default=0)
    return max(0, expected - path.stat().st_size)


_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")


def _boxes(path: Path) -> Iterator[tuple[str, int]]:
    """Name and end of every top-level box of an MP4, MOV or 3GP file; else nothing."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            head = file.read(16)
            kind = head[4:8]
            if len(head) < 8 or not kind.isalnum() or (start == 0 and kind not in _FIRST_BOXES):
                return
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:  # to the end of the file
                length = size - start
            if length < 8:
                return
            start += length
            yield kind.decode("latin-1"), start


def _matroska_size(head: bytes) -> int:
    """Where the segment of a Matroska or WebM file should end; 0 if that is not written."""

    def number(at: int) -> tuple[int | None, int]:
        """An EBML length and what follows it; None for "unknown", as live recordings write."""
        width = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
        return (None if value == (1 << 7 * width) - 1 else value), at + width

    try:
        length, at = number(4)
        at += length or 0
        if head[at : at + 4] != b"\x18\x53\x80\x67":
            return 0
        length, at = number(at + 4)
    except IndexError:
        return 0
    return 0 if length is None else at + length
