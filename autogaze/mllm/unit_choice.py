"""Budgets of units (a ratio, a loss, a number of tokens), and the choice of a prompt's kept units within its budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch

from autogaze.clips import check_loss
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.checks import as_count, check_kind, counted
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.gazed_visual import GazedImage, GazedVisual
from autogaze.mllm.ranking import RankedUnits, check_unit_ratio, rank_units, units_of_gaze
from autogaze.mllm.selection import MovingFrames, select_units
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.selectors.base import Selector

MAX_EVEN_SHARES = 4
"""How many times the even share a tubelet may ask for under `max_units`."""


@dataclass(frozen=True)
class Budget:
    """How many units a prompt may keep.

    Args:
        ratio: cap per tubelet, as a share of its dense units, in (0, 1].
        loss: frames stop at this loss, in units of the selector's metric.
        max_units: for all videos of a prompt together; never more are kept. A tubelet needs the
            units that the selector chooses of it until `loss` (else the selector's default or own
            threshold) is met, at most `MAX_EVEN_SHARES` times the even share. If the tubelets together need
            more than `max_units`, each keeps the same share of its need, those chosen first; if
            they need less, less is kept.

    Raises:
        MLLMError: a ratio outside (0, 1], or no whole number of units of at least 1.
        SelectorError: a loss below 0 or not finite.
    """

    ratio: float | None = None
    loss: float | None = None
    max_units: int | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            check_unit_ratio(self.ratio)
        if self.loss is not None:
            check_loss(self.loss)
        if self.max_units is not None:
            object.__setattr__(self, "max_units", as_count(self.max_units, "max_units"))

    def settings(
        self, grids: Sequence[UnitGrid], selector: Selector
    ) -> tuple[float | None, float | None]:
        """The ratio and loss to select with in videos of these grids (`select_units`)."""
        if self.max_units is None:
            return self.ratio, self.loss
        dense = sum(grid.tubelets * grid.dense_units for grid in grids)
        most = min(1.0, MAX_EVEN_SHARES * self.max_units / dense)
        ratio = most if self.ratio is None else min(self.ratio, most)
        loss = self.loss
        if loss is None and selector.metric is not None:
            loss = selector.default_loss
        return ratio, loss

    def keep(self, chosen: Sequence[RankedUnits]) -> list[KeptUnits]:
        """What is kept of the units that were chosen of every video of a prompt.

        Raises:
            MLLMError: fewer units than videos, of which each keeps at least one.
        """
        kept = [units.capped(self.ratio) for units in chosen]
        if self.max_units is None:
            return kept
        if self.max_units < len(chosen):
            raise MLLMError(
                f"max_units={self.max_units} is less than one unit for each of {len(chosen)} videos"
            )
        counts = spend([units.lengths for units in kept], self.max_units)
        return [units.first(own) for units, own in zip(chosen, counts, strict=True)]


def spend(needs: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """What the parts of several videos may keep, at most `most` in all: a like share of their needs.

    Each video has one unit, and its share of the rest.
    """
    totals = shares([sum(own) - 1 for own in needs], most - len(needs))
    return [shares(own, 1 + total) for own, total in zip(needs, totals, strict=True)]


def shares(needs: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to needs, none above its own, that count `total` exactly.

    The needs themselves where they count less than `total`.
    """
    everything = sum(needs)
    if everything <= total:
        return list(needs)
    # Differences of a running sum, rounded down, are off by less than one and leave nothing over.
    edges = [before * total // everything for before in accumulate(needs, initial=0)]
    return [after - before for before, after in pairwise(edges)]


def choose_units(
    visuals: Sequence[GazedVisual | GazedImage],
    selector: Selector | None,
    settings: GazeSettings,
    generator: torch.Generator | None = None,
) -> None:
    """Set the kept units of the videos and images of one prompt.

    Images are kept whole; without a selector everything is.

    Raises:
        MLLMError: a gaze or kept units of another video; or `max_units` is below the units that
            are kept in any case, such as those of images.
    """
    open_: list[tuple[GazedVisual, Gaze | None]] = []
    for visual in visuals:
        if isinstance(visual, GazedImage) or (visual.kind == "image" and visual.made is None):
            visual.kept = KeptUnits.everything(visual.grid)
        elif isinstance(made := visual.made, KeptUnits):
            visual.kept = _of_this(made, visual)
        elif isinstance(made, Gaze):
            open_.append((visual, made))
        elif made is not None:
            visual.kept = _of_this(made(visual.grid), visual)
        elif selector is None:
            visual.kept = KeptUnits.everything(visual.grid)
        else:
            open_.append((visual, None))
    fixed = sum(visual.kept.num_units for visual in visuals if visual.kept is not None)
    budget = _budget(settings, fixed, len(open_))
    ranked: list[RankedUnits] = []
    grids = [visual.grid for visual, made in open_ if made is None]
    for visual, made in open_:
        if made is not None:
            visual.gaze = made
            ranked.append(_ranked(made, visual, settings))
        elif selector is not None:
            video = visual.sampled(motion=selector.needs_motion, passes=2, waiting=len(grids))
            ratio, loss = budget.settings(grids, selector)
            with visual.clock.stage("select"):
                selected = select_units(
                    (MovingFrames(x.frames, x.motion) if x.motion else x.frames for x in video),
                    visual.grid,
                    visual.form.tubelet,
                    selector,
                    units=settings.units,
                    ratio=ratio,
                    loss=loss,
                    generator=generator,
                )
            visual.gaze = selected.gaze
            ranked.append(selected.ranked)
    if settings.units == "union":
        budget = replace(budget, ratio=None)  # which capped patches already
    for (visual, _), kept in zip(open_, budget.keep(ranked), strict=True):
        visual.kept = kept


def _budget(settings: GazeSettings, fixed: int, videos: int) -> Budget:
    """What videos may keep, beside `fixed` units of images and of what is kept whole."""
    most = settings.max_vision_tokens
    if most is None:
        return Budget(settings.ratio, settings.loss)
    if fixed + videos > most:
        whole = f"what is kept whole (images among it) has {counted(fixed, 'unit')}"
        needed = f", and {counted(videos, 'video')} may not have less than one each"
        raise MLLMError(
            f"max_vision_tokens={most} is not enough: {whole}{needed if videos else ''}. Give more "
            f"tokens, smaller or fewer images, or a selector for videos"
        )
    # Without a video nothing is left to spend.
    return Budget(settings.ratio, settings.loss, (most - fixed) if videos else None)


def _of_this(kept: Any, visual: GazedVisual) -> KeptUnits:
    """Kept units that were given, which must be of the video's own grid."""
    check_kind(kept, KeptUnits, f"what a rule keeps of a {visual.kind}")
    if kept.grid != visual.grid:
        raise MLLMError(
            f"the kept units are of {kept.grid}; the {visual.kind} is of {visual.grid}, frames "
            f"{visual.size[1]} x {visual.size[0]} px"
        )
    return kept


def _ranked(gaze: Gaze, visual: GazedVisual, settings: GazeSettings) -> RankedUnits:
    """The units of a gaze that was made before, those chosen first first."""
    grid, tubelet = visual.grid, visual.form.tubelet
    if settings.units == "union" and settings.ratio is not None:
        kept = units_of_gaze(gaze, grid, tubelet, units="union", ratio=settings.ratio)
        return RankedUnits(grid, kept.ids, kept.lengths, ordered=False)
    return rank_units(gaze, grid, tubelet, units=settings.units)
