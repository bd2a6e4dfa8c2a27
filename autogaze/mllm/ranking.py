"""From a gaze to units of a multimodal LLM, in the order in which they were chosen, and back.

A unit is what becomes one token of the LLM. Frames that are encoded together (a tubelet) have their
units in common, so the choices of its frames, and of its tiles, are merged into one order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.checks import describe_value, is_number
from autogaze.clips import Ratio, frame_cap, frame_caps
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.checks import check_choice
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.selectors.finest_cells import whole_frame
from autogaze.source import TileGrid

Mapping = Literal["finest", "scales", "union"]
"""How patches become units: cells of the finest scale are units; every scale is a grid of units of
its own; or every dense unit that a patch of any scale overlaps."""
MAPPINGS: tuple[str, ...] = get_args(Mapping)

NO_ORDER = (
    "this gaze does not know in which order its patches were chosen, so no part of them comes first; "
    "keep all of them (no ratio), or gaze again"
)
"""The message where a gaze that is not ordered would have to be cut."""


@dataclass(frozen=True, eq=False)
class RankedUnits:
    """The units that a gaze chose of a video, the first choice of every tubelet first.

    Args:
        grid: what the ids refer to.
        ids: (N,) ids of units, tubelet by tubelet, no id twice within one; on the CPU.
        lengths: units of every tubelet.
        ordered: whether units stand in the order they were chosen.
    """

    grid: UnitGrid
    ids: Int[Tensor, " N"]
    lengths: tuple[int, ...]
    ordered: bool = True

    def capped(self, ratio: float | None) -> KeptUnits:
        """The first floor(ratio * dense units), at least 1, of every tubelet; all for None."""
        if ratio is None:
            return self.first(self.lengths)
        cap = frame_cap(check_unit_ratio(ratio), 0, self.grid.dense_units)
        return self.first([min(cap, length) for length in self.lengths])

    def first(self, counts: Sequence[int]) -> KeptUnits:
        """The first of the units of every tubelet, as many as `counts` says.

        Raises:
            MLLMError: no unit at all, more than there are, or fewer of a gaze without an order.
        """
        counts = tuple(counts)
        if len(counts) != len(self.lengths) or any(
            not 0 <= count <= length for count, length in zip(counts, self.lengths, strict=True)
        ):
            raise MLLMError(
                f"cannot keep {describe_value(list(counts))} units of tubelets that chose "
                f"{describe_value(list(self.lengths))}"
            )
        if counts != self.lengths and not self.ordered:
            raise MLLMError(NO_ORDER)
        offsets = accumulate(self.lengths, initial=0)
        ids = [
            self.ids[start : start + count].sort().values
            for start, count in zip(offsets, counts, strict=False)
        ]
        return KeptUnits(self.grid, torch.cat(ids), counts)


def units_of_gaze(
    gaze: Gaze,
    grid: UnitGrid,
    tubelet: int,
    *,
    units: Mapping = "finest",
    ratio: float | None = None,
) -> KeptUnits:
    """The units of a video that a gaze keeps.

    Args:
        gaze: at all frames of the video that the model gets, with one clip per tile. Without a
            `source` its clips are the tiles of the frame, row by row, and fill it.
        grid: units of the video.
        tubelet: frames that the model encodes together; a last tubelet that lacks frames is
            judged by those it has.
        units: "finest": cells of the finest scale are units, coarser patches do not count;
            "scales": every scale is a grid of units (see `scales_grid`); "union": every dense unit
            that a patch of any scale overlaps, which of a gaze of coarse patches is nearly all.
        ratio: keep the first floor(ratio * dense units), at least 1, of every tubelet, in the order
            in which they were chosen: choices of its frames and tiles take turns, those of a tile
            in proportion to its units. With "union" the first floor(ratio * patches) patches of
            every frame, and all units that they overlap. None: all.

    Raises:
        MLLMError: a gaze of another grid, number of frames or tiling than the video's; no
            unit is kept; a ratio outside (0, 1], or of a gaze that does not know its order.
    """
    if units == "union" and ratio is not None:
        gaze = first_patches(gaze, check_unit_ratio(ratio))
        ratio = None
    return rank_units(gaze, grid, tubelet, units=units).capped(ratio)


def rank_units(
    gaze: Gaze, grid: UnitGrid, tubelet: int, *, units: Mapping = "finest"
) -> RankedUnits:
    """The units that a gaze chose, in the order of choice; arguments and errors as `units_of_gaze`."""
    check_mapping(units)
    if tubelet < 1 or -(-gaze.num_frames // tubelet) != grid.tubelets:
        raise MLLMError(
            f"the gaze is at {gaze.num_frames} frames; a video of {grid.tubelets} tubelets of "
            f"{tubelet} frames has {max(1, (grid.tubelets - 1) * tubelet + 1)} to "
            f"{grid.tubelets * tubelet}"
        )
    tiles = tiling(gaze, grid)
    pyramid = gaze.pyramid
    if units == "union":
        patch, unit = _overlapped(gaze, grid, tiles)
        sizes = np.ones(tiles.num_tiles)
    else:
        if units == "scales":
            expected = scales_grid(grid.tubelets, *grid.dense, pyramid).grids
            if grid.grids != expected:
                raise MLLMError(
                    f"units='scales' needs the grids {expected} of {pyramid}, got {grid.grids}; "
                    "make the grid with autogaze.mllm.scales_grid"
                )
        check_cells(gaze, grid, tiles)
        table = unit_table(pyramid, grid, tiles, finest_only=units == "finest")
        clip = gaze.frame_of_patch.cpu() // gaze.num_frames
        unit = table[clip, gaze.ids.cpu()]
        patch = (unit >= 0).nonzero()[:, 0]
        unit = unit[patch]
        sizes = (table >= 0).sum(1).clamp(min=1).numpy()
    if not len(unit) and gaze.num_patches:
        raise MLLMError(_nothing_kept(gaze, units))
    return _merged(gaze, grid, tubelet, patch.numpy(), unit.numpy(), sizes)


def _merged(
    gaze: Gaze,
    grid: UnitGrid,
    tubelet: int,
    patch: Int[np.ndarray, " n"],
    unit: Int[np.ndarray, " n"],
    sizes: Float[np.ndarray, " tiles"] | Int[np.ndarray, " tiles"],
) -> RankedUnits:
    """One order per tubelet of pairs of a chosen patch and a unit, in which no unit comes twice."""
    clip, frame = np.divmod(gaze.frame_of_patch.cpu().numpy()[patch], gaze.num_frames)
    # How many patches of its own tile and frame were chosen before, of those that have units.
    listed, number = np.unique(patch, return_inverse=True)
    owner = gaze.frame_of_patch.cpu().numpy()[listed]
    before = (np.arange(len(listed)) - np.searchsorted(owner, owner))[number]
    share = (before + 0.5) / sizes[clip]
    group = frame // tubelet
    order = np.lexsort((unit, clip, frame, share, group))
    slots = (group * grid.num_units + unit)[order]
    first = np.sort(np.unique(slots, return_index=True)[1])
    tubelets, ids = np.divmod(slots[first], grid.num_units)
    lengths = np.bincount(tubelets, minlength=grid.tubelets)
    return RankedUnits(grid, torch.from_numpy(ids), tuple(lengths.tolist()), gaze.ordered)


def unit_table(
    pyramid: PatchPyramid, grid: UnitGrid, tiles: TileGrid, *, finest_only: bool
) -> Int[Tensor, "tiles V"]:
    """The unit of every patch of every tile; -1 where there is none."""
    parts = []
    first = 0 if not finest_only else grid.num_units - grid.dense_units
    for level, cells in enumerate(pyramid.grids):
        if finest_only and level + 1 < len(pyramid.grids):
            parts.append(torch.full((tiles.num_tiles, cells**2), -1))
            continue
        rows, columns = grid.dense if finest_only else grid.grids[level]
        tile = torch.arange(tiles.num_tiles)
        index = torch.arange(cells)
        row = (tile // tiles.columns)[:, None] * cells + index  # tiles, cells
        column = (tile % tiles.columns)[:, None] * cells + index
        exists = (row < rows)[:, :, None] & (column < columns)[:, None, :]
        ids = first + row[:, :, None] * columns + column[:, None, :]
        parts.append(torch.where(exists, ids, -1).flatten(1))
        first += rows * columns
    return torch.cat(parts, dim=1)


def _overlapped(
    gaze: Gaze, grid: UnitGrid, tiles: TileGrid
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Pairs of a chosen patch and a dense unit that it shares area with."""
    rows, columns = grid.dense
    boxes = gaze.pyramid.rectangles.double()[gaze.ids.cpu()] * (tiles.side / gaze.pyramid.side)
    origins = torch.tensor([tiles.origin(tile) for tile in range(tiles.num_tiles)])
    origin = origins[gaze.frame_of_patch.cpu() // gaze.num_frames]
    boxes = boxes + origin.repeat(1, 2)
    per_unit = torch.tensor([columns / tiles.content_width, rows / tiles.content_height])
    boxes = boxes * per_unit.double().repeat(2)  # left, top, right, bottom in units
    limit = torch.tensor([columns, rows])
    tolerance = 1e-4  # rectangles are float32
    low = (boxes[:, :2] + tolerance).floor().long().minimum(limit)
    high = (boxes[:, 2:] - tolerance).ceil().long().minimum(limit)
    wide, high_ = (high - low).clamp(min=0).unbind(1)
    counts = wide * high_
    patch = torch.arange(len(counts)).repeat_interleave(counts)
    within = torch.arange(len(patch)) - (counts.cumsum(0) - counts)[patch]
    row = low[patch, 1] + within // wide[patch]
    column = low[patch, 0] + within % wide[patch]
    return patch, grid.num_units - grid.dense_units + row * columns + column


def scales_grid(tubelets: int, rows: int, columns: int, pyramid: PatchPyramid) -> UnitGrid:
    """The grids of units for `units="scales"`: one per scale, of a frame of whole tiles.

    Args:
        tubelets: of the video.
        rows, columns: units of the model's frame, multiples of the finest cells along a tile's side.
        pyramid: the selector's; a patch of any scale is one unit.

    Raises:
        MLLMError: a frame that is not of whole tiles; the message names sizes that are.
    """
    finest = pyramid.grids[-1]
    if rows % finest or columns % finest:
        near = " x ".join(
            f"{low} or {low + finest}" if (low := side // finest * finest) else f"{finest}"
            for side in (rows, columns)
        )
        raise MLLMError(
            f"units='scales' takes frames of whole tiles, {finest} x {finest} units each; got "
            f"{rows} x {columns} units. Resize frames to {near} units, or use units='finest'"
        )
    down, across = rows // finest, columns // finest
    return UnitGrid(tubelets, tuple((down * cells, across * cells) for cells in pyramid.grids))


def gazed_grid(gaze: Gaze) -> tuple[int, int]:
    """(rows, columns) of finest cells that lie on the video: the units of a frame it fits.

    Raises:
        MLLMError: the tiles do not hold whole cells of the video.
    """
    cells, side = gaze.pyramid.grids[-1], gaze.pyramid.side
    if gaze.source is None:
        if gaze.num_clips != 1:
            raise MLLMError(
                f"a gaze at {gaze.num_clips} clips without a source does not say how they lie on a "
                "frame; gaze at a video (autogaze.gaze_video)"
            )
        return cells, cells
    tiles = gaze.source.tiles
    side = tiles.side
    found = [(content * cells, side) for content in (tiles.content_height, tiles.content_width)]
    if gaze.pyramid.crop or any(length % unit for length, unit in found):
        raise MLLMError(
            f"cells of {gaze.pyramid} do not fill the gaze's frame of {tiles.content_width} x "
            f"{tiles.content_height} pixels, so they are no units; gaze again with whole tiles, "
            "such as tiles='resize', or use units='union'"
        )
    down, across = (length // unit for length, unit in found)
    return down, across


def check_cells(gaze: Gaze, grid: UnitGrid, tiles: TileGrid) -> None:
    """Raise `MLLMError` unless cells of the finest scale are the units of the dense grid."""
    cells = gaze.pyramid.grids[-1]
    rows, columns = grid.dense
    fits = (
        not gaze.pyramid.crop
        and tiles.content_height * cells == rows * tiles.side
        and tiles.content_width * cells == columns * tiles.side
    )
    if fits:
        return
    down, across = (
        f"{length * cells / tiles.side:g}" for length in (tiles.content_height, tiles.content_width)
    )
    raise MLLMError(
        f"the gaze is of another grid: its finest cells cut a frame into {down} x {across} "
        f"({gaze.pyramid} on {tiles.rows} x {tiles.columns} tiles), the model's frame has {rows} x "
        f"{columns} units. Gaze at this video for this model, or resize frames to fit the gaze"
    )


def tiling(gaze: Gaze, grid: UnitGrid) -> TileGrid:
    """How the gaze's clips lie on a frame."""
    if gaze.source is not None:
        return gaze.source.tiles
    cells, side = gaze.pyramid.grids[-1], gaze.pyramid.side
    rows, columns = grid.dense
    down, across = (1, 1) if gaze.num_clips == 1 else (rows // cells, columns // cells)
    if gaze.num_clips != max(1, down * across):
        raise MLLMError(
            f"the gaze has {gaze.num_clips} clips and no source; a frame of {rows} x {columns} "
            f"units has {rows / cells:g} x {columns / cells:g} tiles of {cells} x {cells}"
        )
    return TileGrid(across * side, down * side, across, down, side, across * side, down * side)


def first_patches(gaze: Gaze, ratio: Ratio | None) -> Gaze:
    """The first patches of every frame, at most a share of all patches; all for None.

    Raises:
        MLLMError: patches have to go, and the gaze does not know its order.
    """
    caps = frame_caps(ratio, gaze.num_frames, gaze.pyramid.num_patches)
    lengths = gaze.lengths.minimum(torch.tensor(caps, dtype=torch.long))
    if lengths.equal(gaze.lengths):
        return gaze
    if not gaze.ordered:
        raise MLLMError(NO_ORDER)
    counts = lengths.flatten().tolist()
    ids = [gaze.ids[at : at + count] for at, count in zip(gaze.offsets, counts, strict=False)]
    # Losses are those of a whole frame's choice.
    return replace(gaze, ids=torch.cat(ids), lengths=lengths, losses=None, predicted_losses=None)


def _nothing_kept(gaze: Gaze, units: Mapping) -> str:
    """Why a gaze that has patches keeps no unit."""
    if units == "finest" and len(gaze.pyramid.scales) > 1:
        return (
            f"none of the {gaze.num_patches} chosen patches is of the finest scale, whose cells are "
            f"units. Use units='scales', which has tokens for all scales of {gaze.pyramid}, or a "
            "selector of one scale: autogaze.load(name, pyramid=PatchPyramid((224,), 16))"
        )
    return f"all {gaze.num_patches} chosen patches lie on padding, so no unit is kept"


def check_mapping(units: object) -> None:
    """Raise `MLLMError` unless it is one of `MAPPINGS`."""
    check_choice(units, MAPPINGS, "units")


def check_unit_ratio(ratio: object, what: str = "ratio") -> float:
    """A cap on the kept share of units; `MLLMError` unless it is a number in (0, 1]."""
    if not (is_number(ratio) and 0 < ratio <= 1):  # type: ignore[operator]
        raise MLLMError(f"{what} must be a number in (0, 1], got {describe_value(ratio)}")
    return float(ratio)  # type: ignore[arg-type]


def kept_gaze(gaze: Gaze, kept: KeptUnits, tubelet: int) -> Gaze:
    """The gaze at exactly the kept units, in every frame of their tubelet.

    Args:
        gaze: that they were chosen by; tiles and frames are taken from it.
        kept: units of the video. With one grid they are the finest cells, and the pyramid has the
            finest scale alone; with several, patches of all scales.
        tubelet: frames that the model encodes together.

    Raises:
        MLLMError: units that are no cells of the gaze.
    """
    tiles = tiling(gaze, kept.grid)
    check_cells(gaze, kept.grid, tiles)
    pyramid = gaze.pyramid
    if len(kept.grid.grids) == 1:
        pyramid = PatchPyramid(pyramid.scales[-1:], pyramid.patch_size)
    is_kept = torch.zeros(kept.grid.tubelets, kept.grid.num_units + 1, dtype=torch.bool)
    is_kept[kept.tubelet, kept.ids] = True  # the last column stays False: patches on padding
    table = unit_table(pyramid, kept.grid, tiles, finest_only=False)
    frames = torch.arange(gaze.num_frames) // tubelet
    mask = is_kept[frames[None, :, None], table[:, None, :]]
    return Gaze.from_mask(pyramid, mask, source=gaze.source)


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
