"""One open video stream: its container and a decoder for it, packet errors as values."""

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
from autogaze.video.container import open_container

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
