"""Positions of gazed patches: a model's position table, interpolated to the grid of every scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.geometry import PatchPyramid

Rotary = tuple[Float[Tensor, "cells D"], Float[Tensor, "cells D"]]
"""Cosines and sines."""


def interpolated_positions(
    embeddings: Any, grid: int, patch_size: int, *, like: Tensor, width: int, num_skipped: int
) -> Float[Tensor, "cells C"]:
    """Position table of a grid x grid scale, row by row.

    The model's own `interpolate_pos_encoding` makes it, so a scale gets the positions that
    the untouched model gives an image of its size.

    Args:
        embeddings: the model's embeddings, which own the table.
        grid: cells along a side.
        patch_size: pixels along a cell.
        like: a tensor of the model's dtype and device.
        width: C, of a token.
        num_skipped: leading rows that belong to class tokens.
    """
    side = grid * patch_size
    # The model reads nothing but the shape of this argument.
    tokens = like.new_empty(1).expand(1, grid * grid + num_skipped, width)
    return embeddings.interpolate_pos_encoding(tokens, side, side)[0, num_skipped:]


@runtime_checkable
class _Encoder(Protocol):
    """What of an `EncoderAdapter` positions depend on."""

    model: Any

    @property
    def projection(self) -> Any: ...

    def positions(self, grid: int) -> Tensor | None: ...

    def rotary(self, grid: int) -> Rotary | None: ...


@dataclass(frozen=True)
class PositionTables:
    """Positions of all V patches of a pyramid by id: embeddings, or rotary cosines and sines."""

    positions: Float[Tensor, "V C"] | None
    rotary: tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]] | None

    @classmethod
    def of(cls, encoder: _Encoder, pyramid: PatchPyramid) -> "PositionTables":
        """The tables of the pyramid's scales, one after another."""
        positions = [encoder.positions(grid) for grid in pyramid.grids]
        embedded = [table for table in positions if table is not None]
        rotary = [tables for tables in _rotary(encoder, pyramid.grids) if tables is not None]
        return cls(
            torch.cat(embedded) if embedded else None,
            (torch.cat([cos for cos, _ in rotary]), torch.cat([sin for _, sin in rotary]))
            if rotary
            else None,
        )


def _rotary(encoder: _Encoder, grids: Sequence[int]) -> list[Rotary | None]:
    """Of every grid; in training, by the same random numbers for all of them.

    DINOv3 then stretches its positions at random, once per call. Scales show the same
    picture, so all of them are stretched alike, and the generators end where the
    untouched model would leave them.
    """
    if not encoder.model.training:
        return [encoder.rotary(grid) for grid in grids]
    device = encoder.projection.weight.device
    tables = []
    for grid in grids[:-1]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            tables.append(encoder.rotary(grid))
    return [*tables, encoder.rotary(grids[-1])]
