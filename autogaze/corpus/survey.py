"""How large and how long a collection is, without gazing at it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from autogaze.corpus.storage import MISSING, Input, is_uri
from autogaze.errors import AutoGazeError

MAX_OPENED = 500
"""Videos whose headers are read; where there are more, their length is estimated from so many."""


@dataclass(frozen=True)
class Survey:
    """Size and length of a collection.

    Args:
        missing: files that are not there.
        size: bytes.
        seconds: of video, estimated from those that were measured; None if none was.
        measured: how many videos' headers were read: files of this machine alone.
    """

    missing: int
    size: int
    seconds: float | None
    measured: int


def survey(inputs: Sequence[Input]) -> Survey:
    """Size and length of some inputs."""
    there = [each for each in inputs if each.size != MISSING]
    local = [each for each in there if not is_uri(each.path)]
    if len(local) > MAX_OPENED:
        local = random.Random(0).sample(local, MAX_OPENED)
    lengths = [length for each in local if (length := _length(each.path)) is not None]
    return Survey(
        missing=len(inputs) - len(there),
        size=sum(each.size for each in there),
        seconds=sum(lengths) / len(lengths) * len(there) if lengths else None,
        measured=len(lengths),
    )


def _length(path: str) -> float | None:
    """Seconds of a video, None where its header does not tell."""
    from autogaze.video.reader import Video

    try:
        info = Video(path).info
    except AutoGazeError:
        return None
    if info.is_image:
        return 0.0
    if info.duration is None and info.num_frames is not None:
        return info.num_frames / info.rate
    return info.duration
