"""Displayed RGB pixels of decoded pictures: colours, transparency, orientation."""

from dataclasses import dataclass
from typing import Any, TypeVar

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from jaxtyping import UInt8

from autogaze.video.stills import on_black

Array = TypeVar("Array", bound=np.ndarray)


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned for display: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """What the frame's display matrix says, to the nearest quarter turn."""
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
        """Degrees counter-clockwise, 0 to 270; any mirroring left aside."""
        if self.transpose:
            return 270 if self.flip_x else 90
        return 180 if self.flip_y else 0

    def apply(self, stored: Array) -> Array:
        """Turn (rows, columns, ...) for display; a view, nothing is copied."""
        turned = stored.swapaxes(0, 1) if self.transpose else stored
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]  # type: ignore[return-value]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Displayed width and height of a stored picture."""
        return (height, width) if self.transpose else (width, height)


def side_data(frame: av.VideoFrame, kind: str) -> Any:
    """What the decoder gave with a picture, or None.

    Not by `frame.side_data`: that container and its frame refer to each other, so that
    whole pictures would wait in memory for Python's garbage collector, which rarely
    comes where few objects are made.
    """
    return SideDataContainer(frame).get(kind)  # type: ignore[call-arg]


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the pixel format can be transparent (a palette can)."""
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def to_rgb(
    frame: av.VideoFrame, width: int, height: int, orientation: Orientation
) -> UInt8[np.ndarray, "H W 3"]:
    """Any decoded picture as displayed 8-bit RGB.

    FFmpeg converts the colours, honouring the stream's matrix and range, grey and
    deep pixels included. Transparent pixels lie on black. `width` and `height` are
    the stored size of the stream's first picture: should a stream change its size
    on the way, later pictures are resized to it.
    """
    if has_alpha(frame):
        rgba = frame.to_ndarray(format="rgba", width=width, height=height)
        pixels = on_black(rgba)
    else:
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(orientation.apply(pixels))
