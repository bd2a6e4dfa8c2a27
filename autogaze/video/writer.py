"""Writing H.264 videos."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from autogaze.errors import OutputError
from autogaze.utils.files import replacing
from autogaze.video.container import reason

CLOCK = 90_000
"""Ticks per second: a multiple of 24, 25, 30, 50, 60 and 29.97 frames per second."""


class VideoWriter:
    """Writes frames to an MP4 file (H.264, yuv420p, BT.709 colours).

    ```python
    with VideoWriter("out.mp4", fps=25, width=640, height=360) as writer:
        writer.write(rgb)
    ```

    The file is written atomically, when the block ends without an error. Odd sizes are padded by
    repeating the last column or row, since yuv420p has even sizes only.

    Raises:
        OutputError: a bad rate or size, a folder that cannot be written to, a full
            disk, or no frame written at all.
    """

    def __init__(self, path: str | Path, fps: float, width: int, height: int) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise OutputError(f"{path}: fps must be finite and greater than 0, got {fps}")
        if width < 1 or height < 1:
            raise OutputError(f"{path}: cannot write frames of {width} x {height} pixels")
        self._path = Path(path)
        self._fps = fps
        self._width = width
        self._height = height
        self._last_pts: int | None = None
        self._reformatter = VideoReformatter()  # reused, since it caches tables for its sizes
        self._open = ExitStack()

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            with _output_errors(self._path):
                # Absolute, since FFmpeg takes what stands before a colon for a protocol.
                self._container = av.open(os.path.abspath(temporary), "w", format="mp4")
                stack.push(self._close)
                self._stream = self._add_stream()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(
        self,
        rgb: UInt8[np.ndarray, "H W 3"],
        timestamp: float | None = None,
        duration: float | None = None,
    ) -> None:
        """Append a frame.

        Args:
            rgb: (height, width, 3).
            timestamp: seconds; None for 1/fps after the last frame.
            duration: seconds on screen, which count for the last frame only; None for 1/fps.

        Raises:
            OutputError: a frame of another size, a timestamp that is not later than
                the last one, or a failing disk.
        """
        if rgb.shape != (self._height, self._width, 3) or rgb.dtype != np.uint8:
            raise OutputError(
                f"{self._path}: expected uint8 frames of {(self._height, self._width, 3)}, "
                f"got {rgb.dtype} {rgb.shape}"
            )
        if self._height % 2 or self._width % 2:
            rgb = np.pad(rgb, ((0, self._height % 2), (0, self._width % 2), (0, 0)), mode="edge")
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = self._next_pts(timestamp)
        frame.time_base = Fraction(1, CLOCK)
        frame.duration = max(1, round(CLOCK * (duration or 1 / self._fps)))
        with _output_errors(self._path):
            self._container.mux(self._stream.encode(frame))

    def _next_pts(self, timestamp: float | None) -> int:
        last = self._last_pts
        if timestamp is None:
            pts = 0 if last is None else last + max(1, round(CLOCK / self._fps))
        elif not math.isfinite(timestamp) or timestamp < 0:
            raise OutputError(f"{self._path}: timestamps must be at least 0, got {timestamp}")
        else:
            pts = round(timestamp * CLOCK)
        if last is not None and pts <= last:
            raise OutputError(
                f"{self._path}: a frame at {timestamp} s cannot follow one at {last / CLOCK:g} s"
            )
        self._last_pts = pts
        return pts

    def _add_stream(self) -> VideoStream:
        rate = Fraction(self._fps).limit_denominator(1001)
        # Without B-frames frames are decoded when they are displayed. MP4 keeps the steps between the
        # decoding times, and players end where these add up to, which may be seconds from the last
        # frame's end where B-frames come at a variable rate.
        options = {"crf": "18", "preset": "veryfast", "bf": "0"}
        stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.width = self._width + self._width % 2
        stream.height = self._height + self._height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.flags |= Flags.frame_duration  # the last frame keeps its own
        stream.codec_context.colorspace = int(Colorspace.ITU709)
        stream.codec_context.color_range = int(ColorRange.MPEG)
        return stream

    def _close(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            with suppress(av.FFmpegError, OSError):  # the first error is reported
                self._container.close()
            return
        with _output_errors(self._path):
            if self._last_pts is None:
                self._container.close()
                raise OutputError(f"{self._path}: no frame was written")
            self._container.mux(self._stream.encode(None))
            self._container.close()


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from error
