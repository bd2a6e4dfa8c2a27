"""Positions of all patches of a pyramid: what follows from a patch's id alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import EncoderAdapter

Rotary = tuple[Float[Tensor, "cells D"], Float[Tensor, "cells D"]]
"""Cosines and sines."""


@dataclass(frozen=True)
class PositionTables:
    """One row an id, made once a call."""

    positions: Float[Tensor, "V C"] | None
    rotary: tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]] | None

    @classmethod
    def of(cls, encoder: EncoderAdapter, pyramid: PatchPyramid) -> "PositionTables":
        """Every scale's positions are those of an image of its size."""
        positions = [encoder.positions(grid) for grid in pyramid.grids]
        rotary = _rotary(encoder, pyramid.grids)
        known_positions = [table for table in positions if table is not None]
        known_rotary = [tables for tables in rotary if tables is not None]
        return cls(
            torch.cat(known_positions) if known_positions else None,
            (
                torch.cat([cos for cos, _ in known_rotary]),
                torch.cat([sin for _, sin in known_rotary]),
            )
            if known_rotary
            else None,
        )


def _rotary(encoder: EncoderAdapter, grids: Sequence[int]) -> list[Rotary | None]:
    """Of every grid; in training, by the same random numbers for all of them.

    DINOv3 then stretches its positions at random, once a call. Scales show the same
    picture, so all of them are stretched alike, and what is drawn later is what would be
    drawn behind the untouched model.
    """
    if not encoder.model.training:
        return [encoder.rotary(grid) for grid in grids]
    device = encoder.projection.weight.device
    made = []
    for grid in grids[:-1]:
        # Leaves the generators as they were.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            made.append(encoder.rotary(grid))
    return [*made, encoder.rotary(grids[-1])]
