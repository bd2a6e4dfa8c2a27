"""What the pictures show of each frame, gathered over its tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from autogaze.pipeline import GazedChunk


@dataclass(frozen=True)
class FrameFacts:
    """One frame of the source in numbers.

    Args:
        number: of the frame in the decoded stream, from 0.
        seconds: when it is shown.
        kept: chosen patches a scale, coarse to fine.
        total: patches that could have been chosen.
        loss: canvas loss left, mean over the tiles, if it was measured.
    """

    number: int
    seconds: float
    kept: tuple[int, ...]
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class Column:
    """One frame of a sheet: its pictures from top to bottom, its numbers, the lines below."""

    facts: FrameFacts
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]
    foot: tuple[str, ...]


def frame_facts(chunk: GazedChunk) -> Iterator[FrameFacts]:
    """The facts of every frame of a chunk."""
    gaze, source = chunk.gaze, chunk.source
    kept = [mask.sum(dim=(0, 2)).tolist() for mask in gaze.masks()]  # a list of T counts a scale
    losses = None if gaze.losses is None else gaze.losses.mean(dim=0).tolist()
    for index, (number, seconds) in enumerate(
        zip(source.frame_indices, source.timestamps, strict=True)
    ):
        yield FrameFacts(
            number,
            seconds,
            tuple(counts[index] for counts in kept),
            gaze.num_clips * gaze.pyramid.num_patches,
            None if losses is None else losses[index],
        )


def percent(share: float) -> str:
    """A share in words: two decimals below 1 %, since gazes are often that small."""
    return f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def chosen(chunk: GazedChunk, frame: int) -> list[Bool[np.ndarray, " _"]]:
    """A scale each: which patches of one frame were chosen, all tiles after another."""
    return [mask[:, frame].reshape(-1).cpu().numpy() for mask in chunk.gaze.masks()]
