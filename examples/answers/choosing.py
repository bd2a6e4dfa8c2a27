"""Which units of a clip are kept: by the package's selectors, by controls, or all.

`autogaze.mllm.select_units` chooses, with units="finest" or, of a name such as "greedy:scales", with
the mapping behind the colon. `ratio` caps the units of every tubelet, as a share of its 196 dense
ones; with "union" it caps the patches of a frame.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, cast

import torch

from answers.drawing import GRID, TUBELETS, Clip, draw_clip, write_clip
from answers.prompts import CLIP_GRID
from autogaze.mllm.ranking import Mapping, RankedUnits, check_mapping, scales_grid
from autogaze.mllm.selection import MovingFrames, select_units, unit_selector
from autogaze.mllm.units import KeptUnits
from autogaze.selectors.registry import LEARNED
from autogaze.utils.seeding import seeded
from autogaze.video.motion import MotionField
from autogaze.video.reader import Video

NUM_UNITS = GRID**2
CONTROLS = ("random", "uniform", "centre")
SELECTORS = ("greedy", "run-length", "change", "codec", LEARNED)
CHOOSERS = (*SELECTORS, *CONTROLS)
MULTI_SCALE = ("greedy:scales", f"{LEARNED}:scales", "random:scales", "greedy:union")
"""Those that are compared with units="finest" of the same selector."""
LEAST = {LEARNED: 0.1}
"""The least share of patches to choose: with fewer, no cell of the finest scale may be among them."""


class Chooser(Protocol):
    """Keeps units of clips."""

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        """The units of every clip, at most `ratio` of each tubelet's."""
        ...


@functools.cache
def load_chooser(name: str) -> Chooser:
    """One of `CHOOSERS` or `MULTI_SCALE`, or "dense"."""
    if name == "dense":
        return Everything()
    return Uniform() if name == "uniform" else BySelector(name)


def mapping_of(name: str) -> Mapping:
    """How a chooser's patches become units.

    Raises:
        MLLMError: no such mapping.
    """
    mapping = name.partition(":")[2] or "finest"
    check_mapping(mapping)
    return cast(Mapping, mapping)


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
        chosen: list[set[int]] = [set() for _ in range(TUBELETS)]
        for tubelet in chosen:
            while len(tubelet) < units_of(ratio):
                tubelet.add(next(order))
        return [KeptUnits.from_lists(CLIP_GRID, map(tuple, chosen))] * len(clips)


class BySelector:
    """A selector of the package, by its name and, behind a colon, the mapping of patches to units.

    With "finest", of the learned selector's gazes, at four scales, those at the finest count. It
    chooses `LEAST` of all patches at least, of which the first are kept.
    """

    def __init__(self, name: str) -> None:
        self.mapping = mapping_of(name)
        self.selector = unit_selector(name.partition(":")[0], self.mapping)
        self.least = LEAST.get(name, 0.0)
        self._chosen_least: dict[tuple[str, int], RankedUnits] = {}
        self.grid = CLIP_GRID
        if self.mapping == "scales":
            self.grid = scales_grid(TUBELETS, *CLIP_GRID.dense, self.selector.pyramid)

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        return [self._keep(clip, ratio) for clip in clips]

    def _keep(self, clip: Clip, ratio: float) -> KeptUnits:
        if ratio > self.least:
            return self._choose(clip, ratio).capped(None if self.mapping == "union" else ratio)
        place = clip.split, clip.number
        if place not in self._chosen_least:  # once for all ratios below
            self._chosen_least[place] = self._choose(clip, self.least)
        return self._chosen_least[place].capped(ratio)

    def _choose(self, clip: Clip, ratio: float) -> RankedUnits:
        chunk = _moving(clip) if self.selector.needs_motion else clip.frames
        generator = seeded("answers", self.selector.name, clip.number)
        return select_units(
            [chunk],
            self.grid,
            2,
            self.selector,
            units=self.mapping,
            ratio=ratio,
            generator=generator,
        ).ranked


def _moving(clip: Clip) -> MovingFrames:
    return MovingFrames(clip.frames, motion_of(clip.split, clip.number))


@functools.lru_cache(512)  # an evaluation asks for it at every ratio
def motion_of(split: str, number: int) -> tuple[MotionField, ...]:
    """Motion vectors of a clip's H.264 file, per frame."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_clip(draw_clip(split, number), path)
        found = [frame.motion for frame in Video(path).frames(motion=True)]
    return tuple(motion for motion in found if motion is not None)
