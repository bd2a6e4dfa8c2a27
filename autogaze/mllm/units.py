"""Units of a video: the groups of patches that become one token of a multimodal LLM.

A unit is kept or dropped whole. Qwen-VL merges 2 x 2 patches of 2 frames, SmolVLM 4 x 4 patches
of one; the frames that are encoded together are a tubelet.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from autogaze.errors import MLLMError


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
        grids = tuple((int(rows), int(columns)) for rows, columns in self.grids)
        object.__setattr__(self, "grids", grids)
        if self.tubelets < 1 or not grids or min(side for grid in grids for side in grid) < 1:
            raise MLLMError(f"a grid of units has at least one unit per tubelet, got {self}")

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
        parts = []
        for number, (rows, columns) in enumerate(self.grids):
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            grid = torch.full_like(row, number)
            parts.append(torch.stack([grid, row, column], dim=-1).flatten(0, 1))
        return torch.cat(parts)

    @cached_property
    def dense_places(self) -> Int[Tensor, "U 2"]:
        """(row, column) in the dense grid of the unit at the centre of every unit."""
        grid, row, column = self.places.unbind(-1)
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
        object.__setattr__(self, "ids", self.ids.long().cpu())
        object.__setattr__(self, "lengths", tuple(map(int, self.lengths)))
        grid, ids, lengths = self.grid, self.ids, self.lengths
        if len(lengths) != grid.tubelets or sum(lengths) != ids.numel() or min(lengths) < 0:
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
        first = grid.num_units - grid.dense_units
        ids = torch.arange(first, grid.num_units).repeat(grid.tubelets)
        return cls(grid, ids, (grid.dense_units,) * grid.tubelets)

    @classmethod
    def from_mask(cls, grid: UnitGrid, mask: Bool[Tensor, "tubelets U"]) -> "KeptUnits":
        """The units that are True."""
        if tuple(mask.shape) != (grid.tubelets, grid.num_units):
            raise MLLMError(
                f"expected a mask of {grid.tubelets} tubelets x {grid.num_units} units, "
                f"got {tuple(mask.shape)}"
            )
        mask = mask.cpu()
        return cls(grid, mask.nonzero()[:, 1], tuple(mask.sum(1).tolist()))

    @classmethod
    def from_lists(cls, grid: UnitGrid, ids: Iterable[Sequence[int]]) -> "KeptUnits":
        """The units named for every tubelet, in any order."""
        chosen = [sorted(tubelet) for tubelet in ids]
        flat = torch.tensor([unit for tubelet in chosen for unit in tubelet], dtype=torch.long)
        return cls(grid, flat, tuple(map(len, chosen)))

    @classmethod
    def whole_tubelets(cls, grid: UnitGrid, count: int) -> "KeptUnits":
        """All dense units of `count` tubelets at even distances: the control `uniform`."""
        if not 1 <= count <= grid.tubelets:
            raise MLLMError(f"expected 1 to {grid.tubelets} whole tubelets, got {count}")
        mask = torch.zeros(grid.tubelets, grid.num_units, dtype=torch.bool)
        # The middles of `count` parts of equal length.
        mask[(2 * torch.arange(count) + 1) * grid.tubelets // (2 * count), -grid.dense_units :] = (
            True
        )
        return cls.from_mask(grid, mask)

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
        return self.grid.places[self.ids]

    @property
    def dense_places(self) -> Int[Tensor, "K 2"]:
        """(row, column) of every kept unit in the dense grid."""
        return self.grid.dense_places[self.ids]

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
        grid = UnitGrid(end - first, self.grid.grids)
        ids = self.ids[self.offsets[first] : self.offsets[end]]
        return KeptUnits(grid, ids, self.lengths[first:end])

    def __repr__(self) -> str:
        rows, columns = self.grid.dense
        return (
            f"KeptUnits({self.num_units} of {self.dense_units} units, {self.ratio:.1%}; "
            f"{self.grid.tubelets} tubelets of {rows} x {columns})"
        )
