"""Selecting units of a video: a selector runs on small frames, chunk by chunk, in constant memory.

Selection frames have one finest cell (16 pixels) per unit and are cut into tiles, the clips of
selectors. What a tile has beyond the frame, on the right and at the bottom, is mid grey; there are no
units there.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from autogaze.clips import Clips
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.gaze_checks import shape
from autogaze.geometry import PatchPyramid
from autogaze.mllm.ranking import (
    Mapping,
    RankedUnits,
    check_mapping,
    check_unit_ratio,
    rank_units,
    scales_grid,
    with_whole_frames_spread,
)
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.pipeline import CHUNK, tiles_at_once
from autogaze.reconstruction.canvas import GREY
from autogaze.selectors.base import Selector
from autogaze.selectors.registry import LEARNED, list_selectors, load
from autogaze.source import Source, TileGrid
from autogaze.utils.device import BatchSize
from autogaze.video.tiling import PADDING, empty_tiles

if TYPE_CHECKING:
    from autogaze.video.motion import MotionField


PADDING_LOSS = abs(PADDING / 255 - GREY)
"""Canvas loss of padding that was not looked at: half a level of 255."""

UNITS_PYRAMID = PatchPyramid((224,), 16)
"""One scale, whose cells are units: what selectors that take any pyramid choose from."""


@dataclass(frozen=True, eq=False)
class MovingFrames:
    """Frames with their motion, for selectors that read motion vectors (`codec`).

    Args:
        frames: (n, 3, H, W) uint8.
        motion: of every frame, as the decoder tells it (`Frame.motion` of `autogaze.video`).
    """

    frames: UInt8[Tensor, "n 3 H W"]
    motion: "tuple[MotionField, ...]"

    def __post_init__(self) -> None:
        if len(self.motion) != len(self.frames):
            raise MLLMError(
                f"motion of {len(self.motion)} frames was given with {len(self.frames)} frames"
            )


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


def selection_tiles(
    width: int, height: int, units: tuple[int, int], pyramid: PatchPyramid
) -> TileGrid:
    """The tiling of selection frames of a video of `width` x `height` pixels.

    Args:
        units: rows and columns of the model's frame.
        pyramid: of the selector, whose finest cells are units.

    Raises:
        MLLMError: a pyramid whose finest cells do not fill its frame in whole pixels.
    """
    cells, side = pyramid.grids[-1], pyramid.side
    if pyramid.crop or side % cells:
        raise MLLMError(
            f"the finest cells of {pyramid} do not fill its frame, so they are no units; take a "
            "selector with another pyramid, such as PatchPyramid((224,), 16)"
        )
    cell = side // cells
    rows, columns = units
    across, down = -(-columns // cells), -(-rows // cells)
    return TileGrid(width, height, across, down, side, columns * cell, rows * cell)


def selection_clips(
    chunks: Iterable[Any], units: tuple[int, int], pyramid: PatchPyramid, size: int
) -> Iterator[tuple[Clips, TileGrid]]:
    """Clips of `size` frames (the last may have fewer), one per tile, of frames in any chunks.

    Raises:
        MLLMError: frames that are not uint8 (n, 3, H, W), of several sizes, or with motion only
            for some.
    """
    tiles: TileGrid | None = None
    cut = torch.empty(0)
    motion: list[Tensor] = []
    filled = 0
    for frames, fields in map(_checked, chunks):
        height, width = frames.shape[2:]
        if tiles is None:
            tiles = selection_tiles(width, height, units, pyramid)
        if (tiles.width, tiles.height) != (width, height):
            raise MLLMError(
                f"frames of one video are of one size, got {tiles.width} x {tiles.height} and then "
                f"{width} x {height}"
            )
        done = 0
        while done < len(frames):
            if not filled:
                cut = empty_tiles(tiles, size)
            count = min(size - filled, len(frames) - done)
            cut_frames(frames[done : done + count], tiles, cut[:, filled : filled + count])
            motion += _motion(fields[done : done + count], tiles, pyramid.grids[-1])
            done, filled = done + count, filled + count
            if filled == size:
                yield _clips(cut, motion), tiles
                motion, filled = [], 0
    if tiles is not None and filled:
        yield _clips(cut[:, :filled], motion), tiles


def cut_frames(
    frames: UInt8[Tensor, "n 3 H W"], tiles: TileGrid, out: UInt8[Tensor, "tiles n 3 S S"]
) -> None:
    """Resize frames as planned, and cut them into `out`."""
    size = (tiles.content_height, tiles.content_width)
    if tuple(frames.shape[2:]) != size:
        frames = interpolate(frames, size=size, mode="bilinear", antialias=True)
    side = tiles.side
    for tile in range(tiles.num_tiles):
        left, top = tiles.origin(tile)
        part = frames[:, :, top : top + side, left : left + side]
        high, wide = part.shape[2:]
        out[tile, :, :, :high, :wide] = part
        out[tile, :, :, high:] = PADDING
        out[tile, :, :, :, wide:] = PADDING


def real_cells(tiles: TileGrid, cells: int) -> Bool[Tensor, "tiles cells"]:
    """Which finest cells of every tile lie on the frame; a tile has `cells` along its side."""
    cell = tiles.side // cells
    down = torch.arange(tiles.rows * cells) < tiles.content_height // cell
    across = torch.arange(tiles.columns * cells) < tiles.content_width // cell
    grid = (down[:, None] & across).view(tiles.rows, cells, tiles.columns, cells)
    return grid.transpose(1, 2).reshape(tiles.num_tiles, cells**2)


def _checked(chunk: Any) -> tuple[Tensor, tuple["MotionField", ...]]:
    """Frames of a chunk, on the CPU, and their motion."""
    moving = isinstance(chunk, MovingFrames)
    frames = chunk.frames if moving else chunk
    fits = isinstance(frames, Tensor) and frames.dtype == torch.uint8 and frames.ndim == 4
    if not fits or frames.shape[1] != 3 or 0 in frames.shape[2:]:
        raise MLLMError(
            f"frames come in chunks of uint8 (n, 3, height, width), got {shape(frames)}"
        )
    return frames.cpu(), tuple(chunk.motion) if moving else ()


def _motion(fields: tuple["MotionField", ...], tiles: TileGrid, cells: int) -> list[Tensor]:
    """Motion maps (tiles, cells, cells) of frames."""
    if not fields:
        return []
    from autogaze.video.motion import motion_map  # PyAV

    # Blocks lie in source pixels; the frames beside them may have been resized.
    return [
        motion_map(field, replace(tiles, width=field.width, height=field.height), cells)
        for field in fields
    ]


def _clips(cut: UInt8[Tensor, "tiles n 3 S S"], motion: list[Tensor]) -> Clips:
    if motion and len(motion) != cut.shape[1]:
        raise MLLMError(
            f"motion came with {len(motion)} of {cut.shape[1]} frames; give all or none"
        )
    return Clips(cut, torch.stack(motion, dim=1) if motion else None)
