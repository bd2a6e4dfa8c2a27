"""Conversion of decoded frames to displayed RGB: colours, transparency, orientation."""

from dataclasses import dataclass
from typing import Any, TypeVar

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter
from jaxtyping import UInt8

from autogaze.clips import on_black

Array = TypeVar("Array", bound=np.ndarray)
Number = TypeVar("Number", int, float)


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
        width, height: size before `orientation` is applied, to which all frames are resized:
            pixels become square, and frames of one size.
        tone_map: map a high dynamic range (PQ or HLG, BT.2020) to BT.709.
    """

    def __init__(
        self, width: int, height: int, orientation: Orientation, tone_map: bool = False
    ) -> None:
        self.width, self.height, self.orientation = width, height, orientation
        self.tone_map = tone_map
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
        return np.ascontiguousarray(self.orientation.apply(pixels))

    def _converted(
        self, frame: av.VideoFrame, pixel_format: str, **colours: Any
    ) -> UInt8[np.ndarray, "h w channels"]:
        """The frame resized, in a packed format."""
        made = self._reformatter.reformat(
            frame, self.width, self.height, format=pixel_format, **colours
        )
        if made is frame:  # nothing to convert; the decoder may still read these pixels
            return made.to_ndarray()
        plane = made.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        channels = len(made.format.components)
        return rows[:, : plane.width * channels].reshape(plane.height, plane.width, channels)
