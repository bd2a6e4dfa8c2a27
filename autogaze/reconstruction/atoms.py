"""Atoms: the pieces of a frame that no patch of any scale divides.

All cell boundaries of all scales, drawn over each other, cut a frame into rectangles
(16 x 16 of them for scales 32/64/112/224). Every patch is a set of whole atoms, so the
canvas error of any choice of patches follows from one number an atom and scale: who
chooses by error needs to look at pixels only once a frame.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.geometry import PatchPyramid


@dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of a pyramid, row by row, A in all.

    Args:
        edges: pixel boundaries of the atoms, the same along both axes.
        owners: id of the patch that holds each atom at every level; V where no cell
            of that level covers it (cropped pyramids).
        of_patch: the atoms of every patch.
        levels: the level of every patch.
    """

    edges: tuple[int, ...]
    owners: Int[np.ndarray, "A levels"]
    of_patch: tuple[Int[np.ndarray, " _"], ...]
    levels: tuple[int, ...]

    @property
    def num_atoms(self) -> int:
        return len(self.owners)

    def sums(self, images: Float[Tensor, "*batch 3 S S"]) -> Float[Tensor, "*batch A"]:
        """Sums over the pixels and channels of every atom."""
        indicator = _indicator(self.edges, images.device)  # (atoms a side, S)
        # Columns, then rows: as matrix products these are many times faster than scattering.
        columns = images @ indicator.mT
        return (indicator @ columns).sum(dim=-3).flatten(-2)


@lru_cache(maxsize=16)
def atoms_of(pyramid: PatchPyramid) -> Atoms:
    """The atoms of a pyramid."""
    boundaries = [pyramid.pixel_edges(scale) for scale in pyramid.scales]
    edges = sorted({0, pyramid.side}.union(*boundaries))
    starts = np.array(edges[:-1])
    owners = np.full((starts.size, starts.size, len(boundaries)), pyramid.num_patches)
    for level, grid in enumerate(pyramid.grids):
        cell = np.searchsorted(boundaries[level][1:], starts, side="right")
        ids = pyramid.offsets[level] + cell[:, None] * grid + cell
        covered = (cell[:, None] < grid) & (cell < grid)
        owners[..., level] = np.where(covered, ids, pyramid.num_patches)
    levels = tuple(pyramid.levels.tolist())
    flat = owners.reshape(-1, len(boundaries))
    of_patch = tuple(np.flatnonzero(flat[:, level] == patch) for patch, level in enumerate(levels))
    return Atoms(tuple(edges), flat, of_patch, levels)


@lru_cache(maxsize=64)
def _indicator(edges: tuple[int, ...], device: torch.device) -> Float[Tensor, "a S"]:
    """Row i is 1 on the pixels of atom i of one axis."""
    with torch.inference_mode(False):
        pixels = torch.arange(edges[-1])
        low, high = torch.tensor(edges[:-1])[:, None], torch.tensor(edges[1:])[:, None]
        return ((pixels >= low) & (pixels < high)).to(device, torch.float32)
