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

# Error sums are counted in whole units of 2^-24, small enough for any loss and coarse
# enough that float64 adds and subtracts them without rounding: no drift over hundreds
# of updates, true ties, and the same choice whatever the order of additions.
UNITS = 2.0**24


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


class Search:
    """The greedy search inside one frame of one clip, on atoms.

    Args:
        atoms: the atoms of the pyramid.
        errors: |view - frame| summed over every atom, for every level.
        stale: |canvas - frame| summed over every atom, before any pick.

    Attributes:
        chosen: the picks so far, in order.
        error: the canvas error left, summed over the frame.
        gains: (V + 1,) the drop in `error` that each patch would bring; -inf for what
            is taken. The last slot collects atoms that no cell of a level covers.
    """

    def __init__(
        self,
        atoms: Atoms,
        errors: Float[np.ndarray, "A levels"],
        stale: Float[np.ndarray, " A"],
    ) -> None:
        self.atoms = atoms
        self.errors = errors
        self.chosen: list[int] = []
        self.error = float(stale.sum())
        # What painting an atom at a level would save: nothing where it is painted as
        # fine as that already.
        self.drops = stale[:, None] - errors
        self.painted = np.full(atoms.num_atoms, -1)
        self.num_slots = len(atoms.levels) + 1
        self.gains = self._per_patch(atoms.owners, self.drops)
        self.gains[-1] = -np.inf

    def best(self) -> tuple[int, float]:
        """The patch that lowers the error most (the lowest id of several), and by how much."""
        patch = int(self.gains.argmax())
        return patch, float(self.gains[patch])

    def take(self, patch: int) -> None:
        """Paint a patch; the gains of patches that share its atoms change."""
        level = self.atoms.levels[patch]
        self.chosen.append(patch)
        self.error -= float(self.gains[patch])
        self.gains[patch] = -np.inf
        held = self.atoms.of_patch[patch]
        visible = held[self.painted[held] < level]  # finer squares stay on top
        if visible.size == 0:
            return
        self.painted[visible] = level
        errors = self.errors[visible]
        drops = errors[:, level, None] - errors
        drops[:, : level + 1] = 0
        change = drops - self.drops[visible]
        self.drops[visible] = drops
        self.gains += self._per_patch(self.atoms.owners[visible], change)

    def _per_patch(
        self, owners: Int[np.ndarray, "n levels"], values: Float[np.ndarray, "n levels"]
    ) -> Float[np.ndarray, " slots"]:
        return np.bincount(owners.ravel(), values.ravel(), self.num_slots)
