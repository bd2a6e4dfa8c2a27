"""A gaze that was made before: read, and whether it was made at the video that is given with it."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from autogaze.errors import AutoGazeError, MLLMError, VideoError
from autogaze.gaze import Gaze
from autogaze.mllm.processor_adapter import ProcessorAdapter, Sampling
from autogaze.mllm.sampled_video import FrameSource
from autogaze.mllm.units import KeptUnits

MAX_SHOWN_SHIFT = 2.5e-3
"""Seconds by which a frame's time may differ from that in a gaze: nominal times are not the file's."""

ENDS = 2**16
"""Bytes at either end of two files of one size that are compared."""


def load_gaze(gaze: Any) -> Any:
    """A gaze, kept units or a rule as it is, or the gaze of a file."""
    if isinstance(gaze, Gaze | KeptUnits) or callable(gaze):
        return gaze
    if isinstance(gaze, str | Path):
        return Gaze.load(gaze)
    raise MLLMError(
        f"expected a Gaze, the path of a saved one, KeptUnits or a rule, got {type(gaze).__name__}"
    )


def check_file(gaze: Gaze, source: FrameSource) -> None:
    """Raise `MLLMError` where a gaze was made at a file of other content than the one given.

    Copies, and files that are gone (moved, renamed), are fine. A name that leads to the given file says
    nothing: it may have been written in another folder, or at another time. The video has to be
    one that the gaze's frames can be of.
    """
    if gaze.source is None or gaze.source.path is None or source.path is None:
        return
    made = Path(gaze.source.path)
    if not _can_be_of(gaze, source):
        raise MLLMError(
            f"{source.path}: has {source.num_frames} frames, the gaze was made at {made}, whose frames "
            f"it took up to number {gaze.source.frame_indices[-1]}, of a shorter video; give that one, "
            "or gaze at this one"
        )
    if _differ(made, source.path) and (made.is_absolute() or _is_origin(gaze, made)):
        raise MLLMError(
            f"{source.path}: the gaze was made at another video, {made}; give that one or a copy "
            "of it, or gaze at this one"
        )


def _can_be_of(gaze: Gaze, source: FrameSource) -> bool:
    """Whether a video has as many frames as the one that a gaze's frames were sampled from.

    That number is not in a gaze. But frames are sampled over a whole video: behind the last there are no
    more than between two of them, or before the first. A gaze at a part knows its end.
    """
    known = gaze.source
    if known is None or not known.frame_indices:
        return True
    left = source.num_frames - 1 - known.frame_indices[-1]
    step = max((after - one for one, after in pairwise(known.frame_indices)), default=0)
    if known.end is not None or not step:
        return left >= 0
    return 0 <= left <= max(step, known.frame_indices[0]) + 1


def _is_origin(gaze: Gaze, path: Path) -> bool:
    """Whether a file that a relative name leads to can be the one that a gaze was made at."""
    try:
        found = FrameSource(path)
    except AutoGazeError:
        return False
    known = gaze.source
    size = None if known is None else (known.tiles.width, known.tiles.height)
    return size == found.size and _can_be_of(gaze, found)


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


def check_sampling(
    options: Mapping[str, Any],
    numbers: Sequence[int],
    source: FrameSource,
    adapter: ProcessorAdapter,
) -> None:
    """Raise `MLLMError` where a call asks for other frames than those of a gaze that it gives."""
    names = ("num_frames", "fps", "max_frames")
    asked = {name: options[name] for name in names if options.get(name) is not None}
    every = True if options.get("do_sample_frames") is False else None
    if every:
        asked["do_sample_frames"] = False
    most = asked.get("max_frames")
    if not asked or len(numbers) in (asked.get("num_frames"), most):
        return
    sampling = Sampling(asked.get("num_frames"), asked.get("fps"), every, most)
    try:
        sampled = adapter.numbers(source.num_frames, source.rate, sampling)
    except MLLMError:  # more than the video has
        sampled = []
    if list(sampled) != list(numbers):
        given = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise MLLMError(
            f"{given} with a gaze that was made before: it decides which frames are taken, "
            f"{len(numbers)} here; leave {' and '.join(asked)} out, or select anew without gaze"
        )


def refuse_loss(loss: Any) -> None:
    """Raise `MLLMError` where a call that gives a gaze asks to stop at a loss."""
    if loss is not None:
        raise MLLMError(
            "a gaze that was made before can be cut by ratio or max_vision_tokens, not by a loss: "
            "give loss without gaze"
        )


def check_times(gaze: Gaze, seconds: Sequence[float], source: FrameSource) -> None:
    """Raise `VideoError` where frames are shown at other times than a gaze saw them."""
    if gaze.source is None or source.path is None:
        return
    for number, seen, shown in zip(
        gaze.source.frame_indices, gaze.source.timestamps, seconds, strict=True
    ):
        if abs(seen - shown) > MAX_SHOWN_SHIFT:
            raise VideoError(
                f"{source.path}: shows frame {number} at {shown:.3f} s, the gaze saw it at "
                f"{seen:.3f} s; give the video that it was made at"
            )
