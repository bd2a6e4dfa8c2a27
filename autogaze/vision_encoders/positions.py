"""A model's position table, interpolated to the grid of every scale."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

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
