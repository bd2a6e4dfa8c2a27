"""Which units of a clip are kept: by the package's selectors, by controls, or all.

Selectors see the clip at half its size, where a unit is a patch of 16 pixels: one tile of 14 x 14.
`ratio` caps the units of a tubelet. Its two frames take turns, each in the order in which its
patches were chosen.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from tempfile import TemporaryDirectory
from typing import Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

import autogaze
from answers.drawing import FPS, GRID, TUBELETS, Clip
from answers.prompts import CLIP_GRID
from autogaze.clips import Clips
from autogaze.mllm.units import KeptUnits
from autogaze.selectors.base import Selector
from autogaze.selectors.registry import LEARNED
from autogaze.utils.seeding import seeded
from autogaze.video.chunks import ChunkReader
from autogaze.video.writer import VideoWriter

NUM_UNITS = GRID**2
PYRAMID = autogaze.PatchPyramid((16 * GRID,), 16)
CONTROLS = ("random", "uniform", "centre")
SELECTORS = ("greedy", "run-length", "change", "codec", LEARNED)
CHOOSERS = (*SELECTORS, *CONTROLS)
LEAST = {LEARNED: 0.1}
"""The least ratio of those that choose nothing at the finest scale below."""


class Chooser(Protocol):
    """Keeps units of clips."""

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        """The units of every clip, at most `ratio` of each tubelet's."""
        ...


def load_chooser(name: str) -> Chooser:
    """One of `CHOOSERS`, or "dense"."""
    if name == "dense":
        return Everything()
    return Uniform() if name == "uniform" else BySelector(name)


def units_of(ratio: float) -> int:
    """The most units that a tubelet keeps."""
    return max(1, int(ratio * NUM_UNITS))


class Everything:
    """All units, whatever the ratio."""

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        return [KeptUnits.everything(CLIP_GRID)] * len(clips)


class Uniform:
    """Units spread evenly over the frame, at other places in every tubelet, the same in all clips.

    Places follow the R2 sequence, a two-dimensional sequence of low discrepancy.
    """

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        step = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
        places = ((torch.arange(1, 64 * NUM_UNITS)[:, None] * step).frac() * GRID).long()
        order = iter((places[:, 0] * GRID + places[:, 1]).tolist())
        count, chosen = units_of(ratio), []
        for _ in range(TUBELETS):
            chosen.append(list(islice(_distinct(order), count)))
        return [KeptUnits.from_lists(CLIP_GRID, chosen)] * len(clips)


class BySelector:
    """A selector of the package, whose cells of the finest scale are units.

    Where it takes any pyramid it gets one of that scale alone. Of the learned selector's gazes, at
    four scales, those at the finest count: at small ratios there are few or none.
    """

    def __init__(self, name: str) -> None:
        options = {} if name == LEARNED else {"pyramid": PYRAMID}
        self.selector: Selector = autogaze.load(name, **options)

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        return [self._keep(clip, ratio) for clip in clips]

    def _keep(self, clip: Clip, ratio: float) -> KeptUnits:
        frames = half_size(clip.frames)[None]
        if self.selector.needs_motion:
            frames = _with_motion(clip, frames)
        generator = seeded("answers", self.selector.name, clip.number)
        gaze = self.selector.select(frames, ratio=ratio, generator=generator)
        coarse = self.selector.pyramid.offsets[-1]
        chosen = []
        for first in range(0, gaze.num_frames, 2):
            pair = [gaze.frame(0, frame) - coarse for frame in (first, first + 1)]
            turns = zip_longest(*(ids[ids >= 0].tolist() for ids in pair))
            order = (unit for both in turns for unit in both if unit is not None)
            chosen.append(list(islice(_distinct(order), units_of(ratio))))
        return KeptUnits.from_lists(CLIP_GRID, chosen)


def half_size(frames: UInt8[Tensor, "T 3 S S"]) -> UInt8[Tensor, "T 3 s s"]:
    """Frames with 16 pixels per unit."""
    return F.interpolate(frames, PYRAMID.side, mode="bicubic", antialias=True)


def _distinct(values: Iterable[int]) -> Iterator[int]:
    """Values without repetition, in their order."""
    seen: set[int] = set()
    for value in values:
        if value not in seen:
            seen.add(value)
            yield value


def _with_motion(clip: Clip, frames: UInt8[Tensor, "one T 3 s s"]) -> Clips:
    """The clip with the motion vectors of its H.264 file."""
    with TemporaryDirectory() as folder:
        path = f"{folder}/clip.mp4"
        with VideoWriter(path, FPS, *clip.frames.shape[:1:-1]) as video:
            for frame in clip.frames:
                video.write(frame.permute(1, 2, 0).numpy())
        reader = ChunkReader(path, tiles="one", side=PYRAMID.side, motion_grid=GRID)
        motion = torch.cat([chunk.clips.motion for chunk in reader], dim=1)
    return Clips(frames, motion)
