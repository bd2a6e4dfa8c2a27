"""Size and length of a collection, from file sizes and headers."""

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
        seconds: of video, whole videos; estimated where not all were measured; None if none was.
        measured: number of videos whose length was read from their header; local files alone.
        unreadable: number of files that were opened and are no videos; they add nothing to `seconds`.
        estimated: whether `seconds` is an estimate: some were neither measured nor unreadable.
    """

    missing: int
    size: int
    seconds: float | None
    measured: int
    unreadable: int
    estimated: bool


def survey(inputs: Sequence[Input]) -> Survey:
    """Size and length of some inputs."""
    there = [each for each in inputs if each.size != MISSING]
    local = [each for each in there if not is_uri(each.path)]
    if len(local) > MAX_OPENED:
        local = random.Random(0).sample(local, MAX_OPENED)
    lengths: list[float] = []
    unreadable = 0
    for each in local:
        try:
            length = _length(each.path)
        except AutoGazeError:
            unreadable += 1
            continue
        if length is not None:
            lengths.append(length)
    seconds = None
    if lengths:
        # The same shares and mean are assumed of those that were not opened.
        videos = len(there) * (1 - unreadable / len(local))
        seconds = sum(lengths) / len(lengths) * videos
    return Survey(
        missing=len(inputs) - len(there),
        size=sum(each.size for each in there),
        seconds=seconds,
        measured=len(lengths),
        unreadable=unreadable,
        estimated=len(lengths) + unreadable < len(there),
    )


def _length(path: str) -> float | None:
    """Seconds of a video by its header; None if they are not written.

    Raises:
        AutoGazeError: it is no video, or cannot be read.
    """
    from autogaze.video.reader import Video

    info = Video(path).info
    if info.is_image:
        return 0.0
    if info.duration is None and info.num_frames is not None:
        return info.num_frames / info.rate
    return info.duration
