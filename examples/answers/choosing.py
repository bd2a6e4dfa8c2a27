"""Which units of a clip are kept: by the package's selectors, by controls, or all.

`ratio` caps the units of every tubelet; the package's mapping of gazes to units, "finest", is that
of `autogaze.mllm.select_units`.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from answers.drawing import GRID, TUBELETS, Clip, write_clip
from answers.prompts import CLIP_GRID
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
        chosen: list[set[int]] = [set() for _ in range(TUBELETS)]
        for tubelet in chosen:
            while len(tubelet) < units_of(ratio):
                tubelet.add(next(order))
        return [KeptUnits.from_lists(CLIP_GRID, map(tuple, chosen))] * len(clips)


class BySelector:
    """A selector of the package, by its name.

    Of the learned selector's gazes, at four scales, those at the finest count.
    """

    def __init__(self, name: str) -> None:
        self.selector = unit_selector(name)

    def keep(self, clips: Sequence[Clip], ratio: float) -> list[KeptUnits]:
        return [self._keep(clip, ratio) for clip in clips]

    def _keep(self, clip: Clip, ratio: float) -> KeptUnits:
        frames = clip.frames
        chunk = MovingFrames(frames, motion_of(clip)) if self.selector.needs_motion else frames
        generator = seeded("answers", self.selector.name, clip.number)
        chosen = select_units(
            [chunk], CLIP_GRID, 2, self.selector, ratio=ratio, generator=generator
        )
        return chosen.kept


def motion_of(clip: Clip) -> tuple[MotionField, ...]:
    """Motion vectors of the clip's H.264 file, per frame."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_clip(clip, path)
        found = [frame.motion for frame in Video(path).frames(motion=True)]
    return tuple(motion for motion in found if motion is not None)
