"""Whether a gaze that was made before was made at the video that is given with it."""

import os
from collections.abc import Sequence
from pathlib import Path

from autogaze.errors import MLLMError, VideoError
from autogaze.gaze import Gaze
from autogaze.mllm.sampled_video import FrameSource

MAX_SHIFT = 2.5e-3
"""Seconds by which a frame's time may differ from that in a gaze made before."""

ENDS = 2**16
"""Bytes at either end of two files of one size that are compared."""


def check_file(gaze: Gaze, source: FrameSource) -> None:
    """Raise `MLLMError` where a gaze names a file of other content than the one given.

    Copies, and files that are gone (moved, renamed), are fine.
    """
    if gaze.source is None or gaze.source.path is None or source.path is None:
        return
    made = Path(gaze.source.path)
    if _differ(made, source.path):
        raise MLLMError(
            f"{source.path}: the gaze was made at another video, {made}; give that one or a copy "
            "of it, or gaze at this one"
        )


def _differ(one: Path, other: Path) -> bool:
    """Whether two files are both there, and differ in size or at their ends."""
    try:
        if os.path.samefile(one, other):
            return False
        sizes = one.stat().st_size, other.stat().st_size
        return sizes[0] != sizes[1] or _ends(one, sizes[0]) != _ends(other, sizes[0])
    except OSError:  # gone, or not to be read: nothing says that it is another one
        return False


def _ends(path: Path, size: int) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        return first, file.read(ENDS)


def check_size(gaze: Gaze, source: FrameSource) -> None:
    """Raise `MLLMError` where a gaze was made at a video of another size."""
    if gaze.source is None:
        return
    size = gaze.source.tiles.width, gaze.source.tiles.height
    if size != source.size:
        called = f" ({gaze.source.path})" if gaze.source.path else ""
        raise MLLMError(
            f"{source.path or 'the video'}: has {source.width} x {source.height} pixels, the gaze was "
            f"made at a video of {size[0]} x {size[1]}; give that video{called}"
        )


def check_times(gaze: Gaze, seconds: Sequence[float], source: FrameSource) -> None:
    """Raise `VideoError` where frames are shown at other times than a gaze saw them."""
    if gaze.source is None or source.path is None:
        return
    for number, seen, shown in zip(
        gaze.source.frame_indices, gaze.source.timestamps, seconds, strict=True
    ):
        if abs(seen - shown) > MAX_SHIFT:
            raise VideoError(
                f"{source.path}: shows frame {number} at {shown:.3f} s, the gaze saw it at "
                f"{seen:.3f} s; give the video that it was made at"
            )
