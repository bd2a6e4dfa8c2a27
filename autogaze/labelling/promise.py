"""Which patches promise most, from one look at what is wrong with a reconstruction."""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from autogaze.geometry import PatchPyramid

Array = NDArray[np.float64]


def promises(
    wrong_now: Float[Array, "S S"],
    wrong_views: Float[Array, "levels S S"],
    chosen: Bool[Array, " V"],
    pyramid: PatchPyramid,
) -> Float[Array, " V"]:
    """What painting every patch over the reconstruction would take off its error.

        promise(patch) = sum over its pixels that no finer chosen patch covers of
            error of the reconstruction - error of the frame as the patch's scale shows it

    With a canvas as the judge that is the gain itself. A judge that starts from the canvas
    also changes what is around a patch, so there it is a guess, at the price of one
    reconstruction for all patches instead of one for each.

    Args:
        wrong_now: error of the reconstruction, a pixel.
        wrong_views: error of the frame as every scale shows it.
        chosen: patches gazed at already.

    Returns:
        A number a patch, of any sign; -inf where it is chosen.
    """
    gains: list[Array] = []
    free = np.ones(wrong_now.shape, dtype=bool)  # of all finer patches that are chosen
    starts = np.cumsum([0, *pyramid.cells])
    for level in reversed(range(len(pyramid.scales))):
        edges = pyramid.pixel_edges(pyramid.scales[level])
        gain = np.where(free, wrong_now - wrong_views[level], 0.0)
        gain = gain[: edges[-1], : edges[-1]]  # what no cell covers is nobody's
        rows = np.add.reduceat(gain, edges[:-1], axis=0)
        gains.append(np.add.reduceat(rows, edges[:-1], axis=1).ravel())
        grid = pyramid.grids[level]
        taken = chosen[starts[level] : starts[level + 1]].reshape(grid, grid)
        for row, column in zip(*taken.nonzero(), strict=True):
            spans = list(pairwise(edges))
            free[slice(*spans[row]), slice(*spans[column])] = False
    found = np.concatenate(gains[::-1])
    found[chosen] = -np.inf
    return found
