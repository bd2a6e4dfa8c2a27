"""Position tables, and how they are resized to the grids of other scales."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def grid_positions(num_cells: int, width: int) -> Float[Tensor, "cells1 C"]:
    """Sines and cosines of a square grid's cells behind a zero row for the class token.

    The first half of the channels speaks of the column, the second of the row; each
    half is sines then cosines at wavelengths from 2 pi to 10000 * 2 pi.
    """
    grid = round(num_cells**0.5)
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    steps = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([steps.sin(), steps.cos()], dim=1)  # (grid, C / 2)
    columns = axis[None].expand(grid, grid, -1)
    rows = axis[:, None].expand(grid, grid, -1)
    table = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()


def resized_2d(table: Float[Tensor, "cells C"], grid: int) -> Float[Tensor, "new C"]:
    """A square grid's table for another square grid, bicubic."""
    side = round(len(table) ** 0.5)
    if side == grid:
        return table
    square = table.T.unflatten(1, (side, side))[None]
    return F.interpolate(square, (grid, grid), mode="bicubic", align_corners=False)[0].flatten(1).T


def resized_1d(table: Float[Tensor, "cells C"], cells: int) -> Float[Tensor, "new C"]:
    """The table read as one line and resized to a line of `cells`, as ViT-MAE's decoder does."""
    if len(table) == cells:
        return table
    line = table.T[None, :, None]  # (1, C, 1, cells)
    # By size, as transformers does: by factor, 196 * (4 / 196) cells would be rounded to 3.
    return F.interpolate(line, (1, cells), mode="bicubic", align_corners=False)[0, :, 0].T
