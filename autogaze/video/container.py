"""Opening files with FFmpeg, and saying clearly why one cannot be opened.

Besides FFmpeg's own terse errors this reads the container's header for one thing
FFmpeg does not tell: how many bytes the file should have. That finds truncated
files without decoding them, and without guessing from durations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from autogaze.errors import VideoError

# One open video stream: its container and a decoder for it, packet errors as values.

Decoded = tuple[av.VideoFrame, bool] | av.FFmpegError
"""A frame and whether it is damaged, or why a packet gave none."""


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
        """Open a file to decode its video on all cores, with motion vectors if asked for.

        Raises:
            VideoError: see `open_container`; or there is no video that can be decoded.
        """
        with open_container(path) as container:
            stream = video_stream(container, path)
            if stream.codec_context is None:
                raise VideoError(f"{path}: this FFmpeg has no decoder for its video stream")
            yield cls(path, container, stream, _decoder(stream, motion))

    def decode(self) -> Iterator[Decoded]:
        """Frames from here to the end, in the order they are shown.

        Errors are given as values, since decoding can often go on after one.
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
        # FFmpeg's own VP8 and VP9 decoders drop the transparency, libvpx keeps it.
        decoder = VideoCodecContext.create("libvpx" if decoder.name == "vp8" else "libvpx-vp9", "r")
    decoder.thread_type = "AUTO"  # type: ignore[assignment]
    if motion:
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
    """How many bytes the file is shorter than its header says; 0 if it does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            expected = 8 + int.from_bytes(head[4:8], "little")
        elif head[:4] == b"\x1aE\xdf\xa3":
            expected = _matroska_size(path)
        else:
            # A size of 0 means "to the end of the file".
            expected = max((end for _, end in _boxes(path)), default=0)
    return max(0, expected - size)


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
            if length == 0:
                length = size - start
            if length < 8:
                return
            start += length
            yield kind.decode("latin-1"), start


_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")


def _matroska_size(path: Path) -> int:
    """Where the segment of a Matroska or WebM file should end; 0 if that is not written."""
    with path.open("rb") as file:
        head = file.read(4096)

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
