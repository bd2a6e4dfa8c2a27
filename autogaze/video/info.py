"""What a video file is, found out by opening it and decoding its first frame."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import OpenStream, missing_bytes, reason
from autogaze.video.frames import Orientation
from autogaze.video.stills import still_header

DEFAULT_FPS = 25.0
"""Dates frames of streams that have neither timestamps nor a rate."""


@dataclass(frozen=True)
class VideoInfo:
    """One video or image file.

    Args:
        path: the file.
        width, height: pixels as displayed, rotation applied (non-square pixels are
            left as they are stored).
        rotation: degrees counter-clockwise the stored frames are turned: 0, 90, 180, 270.
        fps: average frame rate; None for an image.
        duration: seconds; None for an image or where the container does not tell.
        num_frames: how many frames there are, as the container says or by rate and
            duration, so not to be relied on; None if unknown.
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


@dataclass(frozen=True)
class Layout:
    """What decoding needs to know of a stream besides its `VideoInfo`.

    Args:
        origin: seconds of the first frame on the stream's clock; None without timestamps.
        orientation: how to turn stored pictures for display.
        width, height: stored pixels.
        tick: seconds between two timestamps the container can express.
    """

    origin: Fraction | None
    orientation: Orientation
    width: int
    height: int
    tick: float


def probe(path: Path) -> tuple[VideoInfo, Layout | None]:
    """Look at a file; the layout is None for a still image.

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
        rate = stream.average_rate or stream.guessed_rate
        tick = stream.time_base
        duration = None
        if stream.duration is not None and tick is not None:
            duration = float(stream.duration * tick)
        elif opened.container.duration is not None:
            duration = opened.container.duration / 1_000_000
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
        pts = frame.dts if frame.pts is None else frame.pts
        origin = None if pts is None or tick is None else pts * tick
        return info, Layout(
            origin, orientation, frame.width, frame.height, float(tick) if tick else 0.0
        )


def _first_frame(opened: OpenStream) -> av.VideoFrame:
    """The first frame that can be decoded at all."""
    cause = "the stream is empty"
    for item in opened.decode():
        if not isinstance(item, av.FFmpegError):
            return item[0]
        cause = reason(item)
    short = missing_bytes(opened.path)
    if short:
        raise CorruptVideoError(
            f"{opened.path}: frame 0 cannot be decoded: the file is cut short by {short} bytes"
        )
    raise VideoError(f"{opened.path}: not one frame can be decoded ({cause})")
