"""Codec: cells that move by the motion vectors of the compressed video.

The decoder exports motion vectors anyway, so selecting costs next to nothing and reads no pixels.
They tell how blocks move, not what is in them.
"""

from typing import cast

import torch
from torch import Tensor

from autogaze.checks import describe_value, is_number
from autogaze.clips import Clips, Ratio
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import (
    CausalStream,
    SelectionStream,
    Selector,
    frame_gaze,
    pyramid_or_default,
)
from autogaze.selectors.finest_cells import highest_cells, whole_frame


class Codec(Selector):
    """Cells of the finest scale that moved by more than a threshold, most moved first.

    The first frame of a clip is taken whole (`finest_cells.whole_frame`), and so is a later
    frame in which every cell is new (a key frame in the middle of a clip). Every other frame
    takes at least its most moved cell.

    Args:
        pyramid: the patches to choose from.
        threshold: motion up to which a cell counts as static, in source pixels. Half a pixel
            hides the jitter of quarter-pixel vectors.
        new_content: motion from which on a cell counts as new: the value of blocks that were
            not predicted from an earlier frame.
    """

    name = "codec"
    needs_motion = True
    reads_pixels = False

    def __init__(
        self, pyramid: PatchPyramid | None = None, threshold: float = 0.5, new_content: float = 1e4
    ) -> None:
        numbers = is_number(threshold) and is_number(new_content)
        if not (numbers and 0 <= threshold < new_content):
            raise SelectorError(
                "threshold must lie in [0, new_content), got "
                f"{describe_value(threshold)} and {describe_value(new_content)}"
            )
        self.pyramid = pyramid_or_default(pyramid)
        self.threshold = threshold
        self.new_content = new_content

    def check(self, clips: Clips) -> None:
        super().check(clips)
        grid, motion = self.pyramid.grids[-1], cast(Tensor, clips.motion)
        if tuple(motion.shape[2:]) != (grid, grid):
            raise SelectorError(
                f"{self.name} needs the motion of {grid} x {grid} cells, got {tuple(motion.shape)}"
            )
        if not bool((motion >= 0).all()):
            raise SelectorError("motion must be at least 0 pixels everywhere, got less or NaN")

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _MotionStream(self, ratio)


class _MotionStream(CausalStream[Codec]):
    """Selects in each frame by its own motion."""

    def choose(self, frame: Clips, cap: int) -> Gaze:
        motion = cast(Tensor, frame.motion)[:, 0].flatten(1).float()  # (B, cells)
        whole = whole_frame(self.pyramid, cap).to(motion.device)
        is_new = (motion >= self.selector.new_content).all(dim=1).tolist()
        moved = highest_cells(motion, self.selector.threshold, self.pyramid)
        first = self.num_frames == 1
        return frame_gaze(
            self.pyramid,
            [whole if first or new else ids[:cap] for new, ids in zip(is_new, moved, strict=True)],
        )
