"""Choosing the units of all videos of a prompt, within a ratio, a loss or a number of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.budget import Budget
from autogaze.mllm.checks import check_kind, counted
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.gazed_visual import GazedImage, GazedVisual
from autogaze.mllm.ranking import RankedUnits, rank_units, units_of_gaze
from autogaze.mllm.sampled_video import SampledVideo
from autogaze.mllm.selection import MovingFrames, select_units
from autogaze.mllm.units import KeptUnits
from autogaze.selectors.base import Selector


def choose_units(
    visuals: Sequence[GazedVisual | GazedImage],
    selector: Selector | None,
    settings: GazeSettings,
    generator: torch.Generator | None = None,
) -> None:
    """Set the kept units of the videos and images of one prompt.

    Args:
        visuals: in their order; images are kept whole.
        selector: chooses; None keeps everything.
        settings: units, ratio, loss and the number of tokens.
        generator: source of randomness.

    Raises:
        MLLMError: a gaze or kept units of another video; more units that are kept whatever is
            chosen than tokens.
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
    for visual, made in open_:
        if made is not None:
            visual.gaze = made
            ranked.append(_ranked(made, visual, settings))
        elif selector is not None:
            grids = [other.grid for other, gaze in open_ if gaze is None]
            ratio, loss = budget.settings(grids, selector)
            video = visual.sampled(motion=selector.needs_motion, passes=2, waiting=len(grids))
            ranked.append(_select(visual, video, selector, settings, ratio, loss, generator))
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


def _select(
    visual: GazedVisual,
    video: SampledVideo,
    selector: Selector,
    settings: GazeSettings,
    ratio: float | None,
    loss: float | None,
    generator: torch.Generator | None,
) -> RankedUnits:
    """What the selector chooses of one video."""
    began = perf_counter()
    selected = select_units(
        _frames(video),
        visual.grid,
        visual.form.tubelet,
        selector,
        units=settings.units,
        ratio=ratio,
        loss=loss,
        generator=generator,
    )
    reading = video.decode_seconds + video.resize_seconds
    visual.select_seconds = perf_counter() - began - reading
    visual.gaze = selected.gaze
    return selected.ranked


def _frames(video: SampledVideo) -> Iterator[torch.Tensor | MovingFrames]:
    """Frames as selectors take them."""
    for chunk in video:
        yield MovingFrames(chunk.frames, chunk.motion) if chunk.motion else chunk.frames
