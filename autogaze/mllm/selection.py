"""Selecting units of a video: a selector runs on small frames, chunk by chunk, in constant memory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from autogaze.clips import Clips, frame_cap
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.ranking import (
    Mapping,
    RankedUnits,
    check_mapping,
    check_unit_ratio,
    rank_units,
    scales_grid,
    units_of_gaze,
)
from autogaze.mllm.selection_frames import (
    PADDING_LOSS,
    MovingFrames,
    real_cells,
    selection_clips,
)
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.pipeline import CHUNK, tiles_at_once
from autogaze.selectors.base import Selector
from autogaze.selectors.finest_cells import whole_frame
from autogaze.selectors.registry import LEARNED, list_selectors, load
from autogaze.source import Source, TileGrid
from autogaze.utils.device import BatchSize

__all__ = ["MovingFrames", "Selected", "select_units", "unit_selector", "units_of_gaze"]

UNITS_PYRAMID = PatchPyramid((224,), 16)
"""One scale, whose cells are units: what selectors that take any pyramid choose from."""


@dataclass(frozen=True, eq=False)
class Selected:
    """What a selector chose of a video.

    Args:
        kept: the kept units.
        ranked: all units that were chosen, of which the first are kept.
        gaze: at the selection frames; its `source` has their tiling, and frame numbers for
            timestamps.
    """

    kept: KeptUnits
    ranked: RankedUnits
    gaze: Gaze


def unit_selector(
    selector: Selector | str | Path,
    units: Mapping = "finest",
    device: str | torch.device = "auto",
) -> Selector:
    """A selector for a mapping; a name is loaded with the pyramid that the mapping asks for.

    With "finest" the selectors that take any pyramid get one whose cells are units. Weights, and
    the other mappings, have scales of their own. A selector object is taken as it is, where it is.
    """
    check_mapping(units)
    if not isinstance(selector, str | Path):
        return selector
    name = str(selector)
    if units == "finest" and name in list_selectors() and name != LEARNED:
        return load(name, device=device, pyramid=UNITS_PYRAMID)
    return load(name, device=device)


def select_units(
    chunks: Iterable[UInt8[Tensor, "_ 3 _ _"] | MovingFrames],
    grid: UnitGrid,
    tubelet: int,
    selector: Selector | str | Path,
    *,
    units: Mapping = "finest",
    ratio: float | None = None,
    loss: float | None = None,
    generator: torch.Generator | None = None,
) -> Selected:
    """Choose the units of a video from its frames.

    Frames are gazed at 16 at a time, as `autogaze.gaze_video` does, whatever chunks they come in.

    Args:
        chunks: frames of any size, all of one; read once, one chunk in memory at a time.
        grid: units of the video; for "scales" that of `scales_grid`.
        tubelet: frames that the model encodes together.
        selector: a selector, or a name (see `unit_selector`).
        units: see `units_of_gaze`.
        ratio: cap on the kept units of every tubelet, as a share of its dense units. The selector
            may choose that many in each frame; the first of them are kept. With "union" the
            selector's own cap, on patches per frame.
        loss: stop a tile of a frame as soon as its loss is at most this, in units of the
            selector's metric. Of canvas loss the mean over pixels of the frame, whatever the tile
            has beyond it (`_of_padded`); of a model's predicted loss, what it predicts of the tile.
            With neither, the selector's default.
        generator: source of randomness, for selectors that use any.

    Raises:
        MLLMError: frames of another form or number than the grid's; nothing is kept; a ratio
            outside (0, 1].
        SelectorError: settings that the selector does not support, motion that it lacks.
    """
    selector = unit_selector(selector, units)
    pyramid = selector.pyramid
    if ratio is not None:
        ratio = check_unit_ratio(ratio)
    if units == "scales":
        scales_grid(grid.tubelets, *grid.dense, pyramid)  # refuses frames of other sizes
    selector.settings(ratio, loss)  # refuses what it does not support, before frames are read
    size = max(1, CHUNK // tubelet) * tubelet
    chooser = _Chooser(selector, units, ratio, loss, generator)
    gazes: list[Gaze] = []
    num_frames = 0
    for clips, tiles in selection_clips(chunks, grid.dense, pyramid, size):
        numbers = tuple(range(num_frames, num_frames + clips.num_frames))
        source = Source(tiles, tuple(map(float, numbers)), numbers, size)
        gazes.append(replace(chooser.gaze(clips, tiles), source=source))
        num_frames += clips.num_frames
    if not gazes:
        raise MLLMError("the video has no frames, so there is nothing to select")
    gaze = Gaze.cat_frames(gazes)
    ranked = rank_units(gaze, grid, tubelet, units=units)
    kept = ranked.capped(None if units == "union" else ratio)
    return Selected(kept, ranked, gaze)


class _Chooser:
    """Runs a selector on the tiles of chunks; arguments as of `select_units`."""

    def __init__(
        self,
        selector: Selector,
        units: Mapping,
        ratio: float | None,
        loss: float | None,
        generator: torch.Generator | None,
    ) -> None:
        self.selector, self.units = selector, units
        self.ratio, self.loss, self.generator = ratio, loss, generator
        self.device: torch.device | None = getattr(selector, "device", None)
        self.tiles = BatchSize(
            f"tiles on {self.device}",
            "take smaller frames, a lower ratio, or a selector on another device",
            MLLMError,
        )

    def gaze(self, clips: Clips, tiles: TileGrid) -> Gaze:
        """The gaze at all tiles of a chunk."""
        at_once = min(tiles_at_once(self.device, clips), clips.num_clips)
        return self.tiles.run(at_once, partial(self._gaze, clips, tiles), self.generator)

    def _gaze(self, clips: Clips, tiles: TileGrid, at_once: int) -> Gaze:
        """`gaze`, no more than `at_once` tiles together."""
        real = real_cells(tiles, self.selector.pyramid.grids[-1])
        counts = real.sum(1).tolist()
        order: list[int] = []
        gazes: list[Gaze] = []
        for count in sorted(set(counts), reverse=True):
            same = [tile for tile, cells in enumerate(counts) if cells == count]
            for start in range(0, len(same), at_once):
                part = same[start : start + at_once]
                order += part
                gazes.append(self._choose(_part(clips, part), real[part]))
        return _in_order(Gaze.cat_clips(gazes), order)

    def _choose(self, clips: Clips, real: Bool[Tensor, "B cells"]) -> Gaze:
        """The gaze at tiles; equally many of their finest cells are `real`, on the frame."""
        pyramid, ratio = self.selector.pyramid, self.ratio
        # With "finest" patches of other scales do not count, so they are given no budget of units.
        of_patches = self.units == "finest" and len(pyramid.scales) > 1
        count = int(real[0].sum())
        loss = self._of_padded(count / pyramid.cells[-1])
        if ratio is None or self.units == "union" or of_patches:
            return self._select(clips, ratio, loss)
        # Rounded up, so that all tiles together have floor(ratio * units) of a tubelet.
        cap = math.ceil(ratio * count)
        gaze = self._select(clips, (cap + 0.5) / pyramid.num_patches, loss)
        padding = pyramid.cells[-1] - count
        if padding and _lost_to_padding(gaze, real, cap):
            gaze = self._select(clips, (padding + cap + 0.5) / pyramid.num_patches, loss)
        return gaze

    def _of_padded(self, share: float) -> float | None:
        """The loss of a whole tile, of which a `share` is on the frame and has the loss asked for.

        Canvas loss is a mean over the tile, padding among it, which would count as met. Padding is
        a little off the canvas, and left so: a loss below that is asked of padding too, so that a
        loss of 0 leaves no unit out. What a model predicts is no mean that could be converted.
        """
        loss = self.selector.settings(self.ratio, self.loss)[1]  # with neither, the default
        if loss is None or self.selector.metric != "canvas" or share == 1:
            return self.loss
        return share * loss + (1 - share) * min(loss, PADDING_LOSS)

    def _select(self, clips: Clips, ratio: float | None, loss: float | None) -> Gaze:
        """The selector's gaze under a cap on patches per frame."""
        if ratio is not None:
            ratio = min(1.0, ratio)
        gaze = self.selector.select(clips, ratio=ratio, loss=loss, generator=self.generator)
        return with_whole_frames_spread(gaze, ratio)


def _part(clips: Clips, tiles: list[int]) -> Clips:
    """Some of the clips; not copied where they are all."""
    if tiles == list(range(clips.num_clips)):
        return clips
    motion = None if clips.motion is None else clips.motion[tiles]
    return Clips(clips.frames[tiles], motion)


def _in_order(gaze: Gaze, order: list[int]) -> Gaze:
    """The gaze whose clip number `order[i]` is clip i of `gaze`."""
    if order == sorted(order):
        return gaze
    places = torch.tensor(order).argsort()
    parts = gaze.ids.split(gaze.lengths.sum(1).tolist())
    losses, predicted = gaze.losses, gaze.predicted_losses
    return replace(
        gaze,
        ids=torch.cat([parts[place] for place in places.tolist()]),
        lengths=gaze.lengths[places],
        losses=None if losses is None else losses[places.to(losses.device)],
        predicted_losses=None if predicted is None else predicted[places.to(predicted.device)],
    )


def _lost_to_padding(gaze: Gaze, real: Bool[Tensor, "B cells"], cap: int) -> bool:
    """Whether a frame spent its cap on cells of padding, with real ones left to choose."""
    clip = gaze.frame_of_patch // gaze.num_frames
    lost = torch.zeros(gaze.lengths.numel(), dtype=torch.long)
    on_padding = ~real[clip.cpu(), gaze.ids.cpu()]
    lost.index_add_(0, gaze.frame_of_patch.cpu(), on_padding.long())
    return bool(((lost > 0) & (gaze.lengths.flatten() >= cap)).any())


def with_whole_frames_spread(gaze: Gaze, ratio: float | None) -> Gaze:
    """The gaze in which frames that were taken whole have an order of which any beginning will do.

    Selectors take the first frame of a chunk whole, or its cells evenly spread, row by row. The
    first of them would be the top of the frame.
    """
    whole = whole_frame(gaze.pyramid, frame_cap(ratio, 0, gaze.pyramid.num_patches))
    lengths = gaze.lengths.flatten()
    frames = (lengths == len(whole)).nonzero()[:, 0]
    if len(whole) < 2 or not len(frames):
        return gaze
    whole = whole.to(gaze.ids.device)
    starts = torch.tensor(gaze.offsets)[frames].to(gaze.ids.device)
    slots = starts[:, None] + torch.arange(len(whole), device=starts.device)
    taken = (gaze.ids[slots] == whole).all(1)
    if not bool(taken.any()):
        return gaze
    levels = gaze.pyramid.levels[whole.cpu()]
    # Scale by scale: the coarser cells, which cover the frame, stay before the finer ones.
    counts = torch.unique_consecutive(levels, return_counts=True)[1].tolist()
    starts_of = accumulate(counts, initial=0)
    order = torch.cat(
        [first + spread_order(n) for n, first in zip(counts, starts_of, strict=False)]
    )
    ids = gaze.ids.clone()
    ids[slots[taken]] = whole[order.to(whole.device)].expand(int(taken.sum()), -1)
    return replace(gaze, ids=ids)


def spread_order(count: int) -> Int[Tensor, " count"]:
    """Numbers below `count` in an order whose every beginning is spread evenly over them.

    That of their bits reversed (van der Corput's sequence): 0, 4, 2, 6, 1, 5, 3, 7.
    """
    bits = max(1, (count - 1).bit_length())
    numbers = torch.arange(2**bits)
    reverse = torch.zeros_like(numbers)
    for bit in range(bits):
        reverse |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return reverse[reverse < count]
