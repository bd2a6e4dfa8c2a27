"""The kept units of a video as a gaze, to be drawn: what a model got of what its selector chose."""

import torch

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.ranking import check_cells, tiling, unit_table
from autogaze.mllm.units import KeptUnits


def kept_gaze(gaze: Gaze, kept: KeptUnits, tubelet: int) -> Gaze:
    """The gaze at exactly the kept units, in every frame of their tubelet.

    Args:
        gaze: that they were chosen by; tiles and frames are taken from it.
        kept: units of the video. With one grid they are the finest cells, and the pyramid has the
            finest scale alone; with several, patches of all scales.
        tubelet: frames that the model encodes together.

    Raises:
        MLLMError: units that are no cells of the gaze.
    """
    tiles = tiling(gaze, kept.grid)
    check_cells(gaze, kept.grid, tiles)
    pyramid = gaze.pyramid
    if len(kept.grid.grids) == 1:
        pyramid = PatchPyramid(pyramid.scales[-1:], pyramid.patch_size)
    is_kept = torch.zeros(kept.grid.tubelets, kept.grid.num_units + 1, dtype=torch.bool)
    is_kept[kept.tubelet, kept.ids] = True  # the last column stays False: patches on padding
    table = unit_table(pyramid, kept.grid, tiles, finest_only=False)
    frames = torch.arange(gaze.num_frames) // tubelet
    mask = is_kept[frames[None, :, None], table[:, None, :]]
    return Gaze.from_mask(pyramid, mask, source=gaze.source)
