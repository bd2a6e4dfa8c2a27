"""A video's frames as they are displayed: their size and rate (`probe`), orientation and RGB colours."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from autogaze.clips import on_black
from autogaze.errors import CorruptVideoError, VideoError
from autogaze.video.container import OpenStream, default_stream, reason
from autogaze.video.stills import still_header
from autogaze.video.structure import missing_bytes

Array = TypeVar("Array", bound=np.ndarray)
Number = TypeVar("Number", int, float)

LARGEST_ASPECT = 10
"""Pixels that are wider or higher than this are taken for a mistake, and for square."""

SQUARE = Fraction(1, 100)
"""Aspects that differ less from 1 come from rounded sizes, and are taken for 1."""

LARGEST_RATE = 10_000
"""Higher frame rates than this are taken for the ticks of a clock."""

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
class Orientation:
    """Orientation of a stored frame for display: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """Orientation by the frame's display matrix, to the nearest quarter turn."""
        try:
            data = side_data(frame, "DISPLAYMATRIX")
        except ValueError:  # side data that PyAV has no name for
            data = None
        if data is None:
            return cls()
        # A stored point (x, y) is shown at (a x + c y, b x + d y), y pointing down.
        a, b, _, c, d = np.frombuffer(memoryview(data), dtype="<i4")[:5].tolist()
        transpose = abs(c) > abs(a)
        across, down = (c, b) if transpose else (a, d)
        return cls(transpose, across < 0, down < 0)

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise, 0 to 270, without mirroring."""
        if self.transpose:
            return 270 if self.flip_x else 90
        return 180 if self.flip_y else 0

    def apply(self, stored: Array) -> Array:
        """Orient (rows, columns, ...) for display; a view, nothing is copied."""
        turned = stored.swapaxes(0, 1) if self.transpose else stored
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]  # type: ignore[return-value]

    def size(self, width: Number, height: Number) -> tuple[Number, Number]:
        """Displayed width and height of a stored frame."""
        return (height, width) if self.transpose else (width, height)


@dataclass(frozen=True)
class Layout:
    """Properties of a stream for decoding, besides its `VideoInfo`.

    Args:
        origin: seconds of the first frame on the stream's clock; None without timestamps.
        orientation: rotation and flips for display.
        width, height: pixels before `orientation` is applied, made square.
        tick: resolution of the container's timestamps in seconds.
        full_range: whether colours take all values of their bits, and not the usual part of them.
        interlaced: whether a frame is two half-frames, whose colours are converted one by one.
    """

    origin: Fraction | None
    orientation: Orientation
    width: int
    height: int
    tick: float
    full_range: bool = False
    interlaced: bool = False


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


def describe(opened: OpenStream) -> tuple[VideoInfo, Layout]:
    """Properties of a stream that has just been opened; decodes its first frame."""
    path, stream = opened.path, opened.stream
    frame = _first_frame(opened)
    tick, pts = stream.time_base, frame.dts if frame.pts is None else frame.pts
    origin = None if pts is None or tick is None or opened.is_raw else pts * tick
    aspect = _aspect(stream)
    stored = max(1, round(frame.width * aspect)), frame.height
    orientation = Orientation.of(frame)
    width, height = orientation.size(*stored)
    duration = opened.duration
    if opened.ends_by_the_clock and duration is not None and origin is not None:
        duration = max(0.0, duration - float(origin) + opened.clock_start(float(origin)))
    rate = _rate(stream)
    num_frames = opened.num_indexed or opened.num_declared
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
    layout = Layout(
        origin,
        orientation,
        *stored,
        float(tick) if tick else 0.0,
        full_range=int(frame.color_range) == ColorRange.JPEG,
        interlaced=bool(frame.interlaced_frame),
    )
    return info, layout


def _rate(stream: VideoStream) -> Fraction | None:
    """Frames per second; None if unknown."""
    rate, highest = stream.average_rate or stream.guessed_rate, stream.base_rate
    if rate is None or rate <= LARGEST_RATE:
        return rate
    # Ticks of a clock: its highest rate is that of the frames (DV), or there was but one frame.
    tick = stream.time_base
    if highest is not None and highest < rate:
        return highest
    return None if tick is not None and rate == 1 / tick else rate


def _aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel by its height; 1 where that is unknown or cannot be."""
    aspect = stream.sample_aspect_ratio
    if not aspect or abs(aspect - 1) < SQUARE:
        return Fraction(1)
    if not Fraction(1, LARGEST_ASPECT) <= aspect <= LARGEST_ASPECT:
        return Fraction(1)
    return aspect


def _first_frame(opened: OpenStream) -> av.VideoFrame:
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


def side_data(frame: av.VideoFrame, kind: str) -> Any:
    """Side data of a decoded frame, or None.

    Not by `frame.side_data`: that container and its frame refer to each other, so that frames
    would stay in memory until Python's garbage collector runs.
    """
    return SideDataContainer(frame).get(kind)  # type: ignore[call-arg]


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the pixel format has an alpha channel or a palette."""
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


class RGBConverter:
    """Conversion of the decoded frames of one stream to displayed 8-bit RGB.

    FFmpeg converts the colours by the stream's matrix and range; transparent pixels are
    composited on black.

    Args:
        layout: its size is that to which all frames are resized: pixels become square, and frames of
            one size.
        tone_map: map a high dynamic range (PQ or HLG, BT.2020) to BT.709.
    """

    def __init__(self, layout: Layout, *, tone_map: bool) -> None:
        self.layout, self.tone_map = layout, tone_map
        # One for all frames: its tables and threads take as long to make as a frame to convert.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """One frame."""
        if has_alpha(frame):
            pixels = on_black(self._converted(frame, "rgba"))
        elif self.tone_map:
            pixels = self._converted(
                frame,
                "rgb24",
                dst_colorspace=Colorspace.ITU709,
                dst_color_trc=ColorTrc.BT709,
                dst_color_primaries=ColorPrimaries.BT709,
            )
        else:
            pixels = self._converted(frame, "rgb24")
        return np.ascontiguousarray(self.layout.orientation.apply(pixels))

    def _converted(
        self, frame: av.VideoFrame, pixel_format: str, **colours: Any
    ) -> UInt8[np.ndarray, "h w channels"]:
        """The frame resized, in a packed format."""
        made = self._reformatter.reformat(
            frame, self.layout.width, self.layout.height, format=pixel_format, **colours
        )
        if made is frame:  # nothing to convert; the decoder may still read these pixels
            return made.to_ndarray()
        plane = made.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        channels = len(made.format.components)
        return rows[:, : plane.width * channels].reshape(plane.height, plane.width, channels)
