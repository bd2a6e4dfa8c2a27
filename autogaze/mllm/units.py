"""Units of a video: the groups of patches that become one token of a multimodal LLM.

A unit is kept or dropped whole. Qwen-VL merges 2 x 2 patches of 2 frames, SmolVLM 4 x 4 patches
of one; the frames that are encoded together are a tubelet.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense
from autogaze.errors import MLLMError
from autogaze.gaze_checks import shape
from autogaze.mllm.checks import COUNT_LIMIT, as_count, as_ids, as_whole_numbers, check_kind


@dataclass(frozen=True)
class UnitGrid:
    """Units of one video or image.

    Ids number the units of one tubelet: grid by grid, coarse to fine, row by row.

    Args:
        tubelets: groups of frames that the model encodes together; 1 for an image.
        grids: (rows, columns) of units, coarse to fine. One grid for a model's own frames; several
            where the model also sees the video resized to coarser grids. The last is the dense one.
    """

    tubelets: int
    grids: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tubelets", as_count(self.tubelets, "tubelets of a grid"))
        given = self.grids if isinstance(self.grids, list | tuple) else ()
        grids = tuple(as_whole_numbers(grid, "rows and columns of units") for grid in given)
        object.__setattr__(self, "grids", grids)
        if not grids or any(len(grid) != 2 or min(grid) < 1 for grid in grids):
            raise MLLMError(
                "a grid of units has at least one unit per tubelet: expected ((rows, columns), "
                f"...), coarse to fine, got {describe_value(self.grids or given)}"
            )
        if self.tubelets * self.num_units >= COUNT_LIMIT:
            raise MLLMError(
                f"a video has less than {COUNT_LIMIT:,} units, got {describe_value(grids)}"
            )

    @property
    def dense(self) -> tuple[int, int]:
        """(rows, columns) of the units that the untouched model takes."""
        return self.grids[-1]

    @property
    def dense_units(self) -> int:
        """Units of one tubelet that the untouched model takes."""
        return math.prod(self.dense)

    @property
    def num_units(self) -> int:
        """Units of one tubelet, of all grids."""
        return sum(math.prod(grid) for grid in self.grids)

    @cached_property
    def places(self) -> Int[Tensor, "U 3"]:
        """(grid, row, column) of every unit of a tubelet by id, on the CPU."""
        return self.places_of(torch.arange(self.num_units))

    @cached_property
    def dense_places(self) -> Int[Tensor, "U 2"]:
        """(row, column) in the dense grid of the unit at the centre of every unit."""
        return self.dense_places_of(torch.arange(self.num_units))

    def places_of(self, ids: Int[Tensor, " K"]) -> Int[Tensor, "K 3"]:
        """Rows of `places`, without a table of all units."""
        sides = torch.tensor(self.grids)
        counts = sides.prod(1)
        starts = counts.cumsum(0) - counts
        grid = torch.searchsorted(starts, ids.contiguous(), right=True) - 1
        place, columns = ids - starts[grid], sides[grid, 1]
        return torch.stack([grid, place // columns, place % columns], dim=-1)

    def dense_places_of(self, ids: Int[Tensor, " K"]) -> Int[Tensor, "K 2"]:
        """Rows of `dense_places`, without a table of all units."""
        grid, row, column = self.places_of(ids).unbind(-1)
        sides = torch.tensor(self.grids)[grid]
        rows, columns = self.dense
        # floor((r + 1/2) G / g), in whole numbers.
        return torch.stack(
            [
                (2 * row + 1) * rows // (2 * sides[:, 0]),
                (2 * column + 1) * columns // (2 * sides[:, 1]),
            ],
            dim=-1,
        )


UnitRule = Callable[[UnitGrid], "KeptUnits"]
"""A rule of one's own: what is kept of a video whose units are known, and not its pixels."""


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """The units of one video or image that a model gets.

    Args:
        grid: what the ids refer to.
        ids: (K,) ids of kept units, tubelet by tubelet, ascending within each; on the CPU.
        lengths: kept units of every tubelet; a tubelet may keep none.

    Raises:
        MLLMError: lengths and ids disagree, ids out of range, not ascending, or none at all.
    """

    grid: UnitGrid
    ids: Int[Tensor, " K"]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        check_kind(self.grid, UnitGrid, "the grid of kept units")
        object.__setattr__(self, "ids", as_ids(self.ids, "ids of kept units"))
        lengths = as_whole_numbers(self.lengths, "kept units of every tubelet")
        object.__setattr__(self, "lengths", lengths)
        grid, ids = self.grid, self.ids
        if len(lengths) != grid.tubelets or sum(lengths) != ids.numel():
            raise MLLMError(
                f"{ids.numel()} ids of kept units do not fit {len(lengths)} lengths that count "
                f"{sum(lengths)}, of a video with {grid.tubelets} tubelets"
            )
        if not ids.numel():
            raise MLLMError(
                f"no unit of the video's {grid.tubelets} tubelets is kept; keep at least one"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= grid.num_units:
            raise MLLMError(
                f"ids of units must lie in [0, {grid.num_units}), "
                f"got ids from {int(ids.min())} to {int(ids.max())}"
            )
        within = self.tubelet * grid.num_units + ids
        if bool((within.diff() <= 0).any()):
            raise MLLMError("ids of kept units must ascend within a tubelet, without repetition")

    @classmethod
    def everything(cls, grid: UnitGrid) -> "KeptUnits":
        """All units of the dense grid: what the untouched model takes."""
        check_kind(grid, UnitGrid, "the grid of kept units")
        first = grid.num_units - grid.dense_units
        ids = torch.arange(first, grid.num_units).repeat(grid.tubelets)
        return cls(grid, ids, (grid.dense_units,) * grid.tubelets)

    @classmethod
    def from_mask(cls, grid: UnitGrid, mask: Bool[Tensor, "tubelets U"]) -> "KeptUnits":
        """The units that are True."""
        check_kind(grid, UnitGrid, "the grid of kept units")
        fits = is_dense(mask) and mask.dtype == torch.bool
        if not fits or tuple(mask.shape) != (grid.tubelets, grid.num_units):
            raise MLLMError(
                f"expected a mask of {grid.tubelets} tubelets x {grid.num_units} units, True where "
                f"one is kept, got {shape(mask)}"
            )
        mask = mask.cpu()
        return cls(grid, mask.nonzero()[:, 1], tuple(mask.sum(1).tolist()))

    @classmethod
    def from_lists(cls, grid: UnitGrid, ids: Iterable[Sequence[int]]) -> "KeptUnits":
        """The units named for every tubelet, in any order."""
        try:
            given = list(ids)
        except (TypeError, RuntimeError):  # iterable in name only: arrays and tensors of one value
            raise MLLMError(
                f"ids of kept units are given tubelet by tubelet, got {describe_value(ids)}"
            ) from None
        chosen = [sorted(as_whole_numbers(units, "ids of kept units")) for units in given]
        flat = torch.tensor([unit for tubelet in chosen for unit in tubelet], dtype=torch.long)
        return cls(grid, flat, tuple(map(len, chosen)))

    @property
    def num_units(self) -> int:
        """Kept units in all: as many tokens reach the LLM."""
        return self.ids.numel()

    @property
    def dense_units(self) -> int:
        """Units that the untouched model would take."""
        return self.grid.tubelets * self.grid.dense_units

    @property
    def ratio(self) -> float:
        """Kept units as a share of those that the untouched model would take."""
        return self.num_units / self.dense_units

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tubelet starts in `ids`: tubelets + 1 positions."""
        return tuple(accumulate(self.lengths, initial=0))

    @cached_property
    def tubelet(self) -> Int[Tensor, " K"]:
        """The tubelet of every kept unit."""
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))

    @property
    def places(self) -> Int[Tensor, "K 3"]:
        """(grid, row, column) of every kept unit in its own grid."""
        return self.grid.places_of(self.ids)

    @property
    def dense_places(self) -> Int[Tensor, "K 2"]:
        """(row, column) of every kept unit in the dense grid."""
        return self.grid.dense_places_of(self.ids)

    @cached_property
    def segments(self) -> tuple[int, ...]:
        """Kept units of every attention segment: each grid of each tubelet, empty ones too."""
        grids = len(self.grid.grids)
        counts = torch.bincount(self.tubelet * grids + self.places[:, 0])
        padded = torch.zeros(self.grid.tubelets * grids, dtype=torch.long)
        padded[: len(counts)] = counts
        return tuple(padded.tolist())

    def between(self, first: int, end: int) -> "KeptUnits":
        """The kept units of tubelets [first, end), as a video of their own."""
        begin, behind = as_whole_numbers((first, end), "the first tubelet and the one behind")
        if not 0 <= begin < behind <= self.grid.tubelets:
            raise MLLMError(
                f"tubelets [{begin}, {behind}) are none of a video with {self.grid.tubelets}"
            )
        grid = UnitGrid(behind - begin, self.grid.grids)
        ids = self.ids[self.offsets[begin] : self.offsets[behind]]
        return KeptUnits(grid, ids, self.lengths[begin:behind])

    def __repr__(self) -> str:
        rows, columns = self.grid.dense
        return (
            f"KeptUnits({self.num_units} of {self.dense_units} units, {self.ratio:.1%}; "
            f"{self.grid.tubelets} tubelets of {rows} x {columns})"
        )


def evenly(
    total: int, each: int, ratio: float | None, tokens: int | None, spent: int = 0
) -> Int[Tensor, " K"]:
    """Which of `total` frames or tubelets the control `uniform` sees, at even distances.

    As many as `tokens` pay for, `each` for one, where `spent` are not to be had; else as a `ratio` says.
    """
    if tokens is not None:
        count = (tokens - spent) // each
    elif ratio is not None:
        count = max(1, math.floor(ratio * total))
    else:
        raise MLLMError("uniform: needs a ratio or a number of tokens")
    if count < 1:
        beside = f" beside {spent:,} of thumbnails" if spent else ""
        raise MLLMError(
            f"uniform: max_vision_tokens={tokens} pays for no frame or tubelet of {each:,}{beside}"
        )
    count = min(count, total)
    return (2 * torch.arange(count) + 1) * total // (2 * count)  # the middles of equal parts
