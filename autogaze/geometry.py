"""The patch pyramid: what a patch id means in pixels.

A square frame is resized to each *scale* (a side in pixels, ascending) and each
scale is cut into cells of one *patch*. Ids run from the coarsest scale to
the finest and row by row inside a scale, so for scales 32/64/112/224 and 16-pixel
patches they are 4 + 16 + 49 + 196 = 265 (AutoGaze, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.checks import MAX_PATCHES, MAX_SCALES, MAX_SIDE, describe_value, whole
from autogaze.errors import GeometryError


@dataclass(frozen=True)
class PatchPyramid:
    """Patches of a square frame at several scales.

    Args:
        scales: sides in pixels, ascending; the last one is the frame's own side.
        patch_size: side of a patch in pixels, the same at every scale.
        crop: what to do with a scale that is no multiple of the patch size: False
            refuses it, True leaves the remainder on the right and at the bottom
            uncovered, as the patch convolution of a ViT does (SigLIP-SO400M has
            384 pixels and 14-pixel patches: 27 cells and 6 pixels left over).

    Raises:
        GeometryError: no scales, no whole numbers, not ascending, smaller than a patch, or not
            divisible by the patch size while `crop` is False; larger than `MAX_SCALES`,
            `MAX_SIDE` and `MAX_PATCHES` allow.
    """

    scales: tuple[int, ...] = (32, 64, 112, 224)
    patch_size: int = 16
    crop: bool = False

    def __post_init__(self) -> None:
        patch_size = whole(self.patch_size)
        if patch_size is None or patch_size < 1:
            raise GeometryError(
                "patch size must be a whole number of at least 1 pixel, got "
                f"{describe_value(self.patch_size)}"
            )
        if not isinstance(self.crop, bool):
            raise GeometryError(f"crop must be True or False, got {describe_value(self.crop)}")
        scales = _sides(self.scales)
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "patch_size", patch_size)
        if not scales or any(a >= b for a, b in pairwise(scales)):
            raise GeometryError(
                f"scales must be one or more ascending sides, got {describe_value(scales)}"
            )
        num_patches = sum((scale // patch_size) ** 2 for scale in scales)
        if len(scales) > MAX_SCALES or scales[-1] > MAX_SIDE or num_patches > MAX_PATCHES:
            raise GeometryError(
                f"{len(scales)} scales up to {describe_value(scales[-1])} pixels in patches of {patch_size} are "
                f"too many: at most {MAX_SCALES} scales, {MAX_SIDE:,} pixels, {MAX_PATCHES:,} patches"
            )
        if scales[0] < self.patch_size:
            raise GeometryError(f"scale {scales[0]} is smaller than one patch of {self.patch_size}")
        for scale in scales:
            if scale % self.patch_size and not self.crop:
                raise GeometryError(
                    f"scale {scale} is not divisible by the patch size {self.patch_size}; "
                    f"use {scale - scale % self.patch_size}, or crop=True to leave "
                    f"{scale % self.patch_size} pixels uncovered"
                )
        # Pyramids that mean the same are equal.
        object.__setattr__(self, "crop", any(scale % self.patch_size for scale in scales))

    @classmethod
    def parse(cls, scales: str | int | Sequence[int], patch_size: int, *, crop: bool = False):
        """Read scales as AutoGaze configs write them: `"32+64+112+224"`, a number or a list."""
        if isinstance(scales, str):
            parts = scales.split("+")
            if not all(part.strip().isdecimal() and len(part) < 20 for part in parts):
                raise GeometryError(
                    f"scales must look like '32+64+112+224', got {describe_value(scales)}"
                )
            return cls(tuple(int(part) for part in parts), patch_size, crop)
        side = whole(scales)
        return cls(_sides(scales) if side is None else (side,), patch_size, crop)

    @property
    def side(self) -> int:
        """Side of the frame in pixels: the largest scale."""
        return self.scales[-1]

    @cached_property
    def grids(self) -> tuple[int, ...]:
        """Cells along one side, per scale."""
        return tuple(scale // self.patch_size for scale in self.scales)

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """Number of cells, per scale."""
        return tuple(grid * grid for grid in self.grids)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First id of every scale."""
        return tuple(sum(self.cells[:level]) for level in range(len(self.cells)))

    @property
    def num_patches(self) -> int:
        """Patches per frame, all scales together: the vocabulary V."""
        return sum(self.cells)

    def level(self, scale: int) -> int:
        """Index of `scale` among the scales, 0 for the coarsest."""
        side = whole(scale)
        if side not in self.scales:
            raise GeometryError(f"scale {describe_value(scale)} is not one of {self.scales}")
        return self.scales.index(side)

    def id(self, scale: int, row: int, column: int) -> int:
        """The id of one patch, in [0, num_patches)."""
        level = self.level(scale)
        grid = self.grids[level]
        places = whole(row), whole(column)
        if not all(place is not None and 0 <= place < grid for place in places):
            raise GeometryError(
                f"row {describe_value(row)}, column {describe_value(column)} lie outside "
                f"the {grid} x {grid} cells of scale {scale}"
            )
        return self.offsets[level] + row * grid + column

    def locate(self, patch: int) -> tuple[int, int, int]:
        """The (scale, row, column) of one id: the inverse of `id`."""
        patch = self._checked(patch)
        level = max(level for level, offset in enumerate(self.offsets) if patch >= offset)
        row, column = divmod(patch - self.offsets[level], self.grids[level])
        return self.scales[level], row, column

    def rectangle(self, patch: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of one patch in pixels of the frame (side `side`)."""
        patch = self._checked(patch)
        left, top, right, bottom = self.rectangles[patch].tolist()
        return left, top, right, bottom

    @cached_property
    def levels(self) -> Int[Tensor, " V"]:
        """The level (0 = coarsest) of every id."""
        return torch.repeat_interleave(
            torch.arange(len(self.cells)), torch.tensor(self.cells, dtype=torch.long)
        )

    @cached_property
    def rectangles(self) -> Float[Tensor, "V 4"]:
        """Left, top, right, bottom of every id in pixels of the frame."""
        parts = []
        for scale, grid in zip(self.scales, self.grids, strict=True):
            edges = (
                torch.arange(grid + 1, dtype=torch.float64) * self.patch_size * self.side / scale
            )
            top, left = torch.meshgrid(edges[:-1], edges[:-1], indexing="ij")
            bottom, right = torch.meshgrid(edges[1:], edges[1:], indexing="ij")
            parts.append(torch.stack([left, top, right, bottom], dim=-1).reshape(-1, 4))
        return torch.cat(parts).float()

    def pixel_edges(self, scale: int) -> tuple[int, ...]:
        """Whole-pixel boundaries of a scale's cells on the frame, grid + 1 of them.

        A pixel belongs to the cell that holds its centre, so every pixel under the
        grid belongs to exactly one cell even where cells are no whole number of
        pixels wide.
        """
        grid = self.grids[self.level(scale)]
        # ceil(edge - 1/2) in integers: the first pixel whose centre is not left of the edge.
        return tuple(
            -((scale - 2 * k * self.patch_size * self.side) // (2 * scale)) for k in range(grid + 1)
        )

    def overlapping(self, patch: int, scale: int) -> tuple[int, ...]:
        """Ids of `scale` whose squares share area with `patch`, ascending."""
        source, row, column = self.locate(patch)
        level = self.level(scale)
        grid = self.grids[level]

        def span(index: int) -> range:
            # Cell i of scale s spans [i, i + 1) / s of the frame: compare in integers.
            first = index * scale // source
            last = -(-(index + 1) * scale // source)
            return range(first, min(last, grid))

        return tuple(self.offsets[level] + r * grid + c for r in span(row) for c in span(column))

    def _checked(self, patch: int) -> int:
        number = whole(patch)
        if number is None or not 0 <= number < self.num_patches:
            raise GeometryError(
                f"patch id {describe_value(patch)} is outside [0, {self.num_patches})"
            )
        return number

    def __str__(self) -> str:
        return "+".join(map(str, self.scales)) + f" / {self.patch_size}"


def _sides(scales: Any) -> tuple[int, ...]:
    """Scales as whole numbers; GeometryError where they are none."""
    try:
        found = [whole(scale) for scale in scales]
    except (TypeError, RuntimeError):  # not to be iterated over
        found = [None]
    sides = tuple(side for side in found if side is not None)
    if len(sides) < len(found):
        raise GeometryError(
            f"scales must be whole numbers of pixels, such as (32, 64, 112, 224), got {describe_value(scales)}"
        )
    return sides
