"""Run-length: cells that changed since the two frames before.

After Run-Length Tokenization (Choudhury et al., "Don't Look Twice", NeurIPS 2024): time
is cut into tubelets of two frames; a cell of a tubelet is kept when the mean absolute
difference between its last frame and the first frame of the tubelet before exceeds tau,
in ImageNet-normalised pixels; the first tubelet is kept whole.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from autogaze.checks import describe_value, is_finite
from autogaze.clips import Clips, ClipsLike, Ratio
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import (
    SelectionStream,
    Selector,
    frame_gaze,
    no_frames,
    pyramid_or_default,
)
from autogaze.selectors.finest_cells import cell_changes, highest_cells, kept_frame, whole_frame
from autogaze.utils.device import constant
from autogaze.utils.normalization import IMAGENET

TUBELET = 2


class RunLength(Selector):
    """Cells of the finest scale that changed from tubelet to tubelet.

    A kept cell is gazed at in both frames of its tubelet; in a clip of odd length the last
    tubelet is one frame. The first tubelet is taken whole (`finest_cells.whole_frame`). Under
    a `ratio` the most changed cells come first. Every frame takes at least its most changed
    cell.

    Args:
        pyramid: the patches to choose from; after the first tubelet only the finest scale.
        threshold: tau, the mean absolute difference from which on a cell counts as
            changed, in units of the ImageNet standard deviation.
        since: compare with the "previous" tubelet, as published, or with the tubelet in
            which the cell was last "kept", which also detects slow drift and, under a cap,
            returns to cells that were left out.
    """

    name = "run-length"

    def __init__(
        self,
        pyramid: PatchPyramid | None = None,
        threshold: float = 0.1,
        since: Literal["previous", "kept"] = "previous",
    ) -> None:
        if not (is_finite(threshold) and threshold >= 0):
            raise SelectorError(f"threshold must be at least 0, got {describe_value(threshold)}")
        if not (isinstance(since, str) and since in ("previous", "kept")):
            raise SelectorError(f"since must be 'previous' or 'kept', got {since!r}")
        self.pyramid = pyramid_or_default(pyramid)
        self.threshold = threshold
        self.since = since

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _TubeletStream(self, ratio)


class _TubeletStream(SelectionStream[RunLength]):
    """Compares each tubelet with an earlier one.

    Attributes:
        first: first frame of a tubelet that is not complete yet.
        reference: frame that a tubelet's last frame is compared with.
    """

    def __init__(self, selector: RunLength, ratio: Ratio | None) -> None:
        super().__init__(selector, ratio)
        self.first: Shaped[Tensor, "B 3 S S"] | None = None
        self.reference: Shaped[Tensor, "B 3 S S"] | None = None

    def step(self, frame: ClipsLike) -> Gaze:
        """Nothing after the first frame of a tubelet, both frames after the second."""
        clips = self.admit(frame)
        picture = self._kept(clips)
        if self.first is None:
            self.first = picture
            return no_frames(self.pyramid, clips.num_clips, self.frames_device)
        first, self.first = self.first, None
        return self._close(first, picture, num_frames=TUBELET).to(self.frames_device)

    def finish(self) -> Gaze | None:
        """The gaze at the last frame of a clip of odd length."""
        self.finished = True
        if self.first is None:
            return None
        first, self.first = self.first, None
        return self._close(first, first, num_frames=1).to(self.frames_device)

    def _kept(self, clips: Clips) -> Shaped[Tensor, "B 3 S S"]:
        """The frame as it is kept; floats where references are put together of several frames."""
        return clips.unit()[:, 0] if self.selector.since == "kept" else kept_frame(clips)

    def _close(
        self, first: Shaped[Tensor, "B 3 S S"], last: Shaped[Tensor, "B 3 S S"], num_frames: int
    ) -> Gaze:
        """The gaze at the tubelet from `first` to `last`."""
        start = self.num_frames - num_frames
        caps = [self.cap(start + index) for index in range(num_frames)]
        if self.reference is None:
            whole = [whole_frame(self.pyramid, cap).to(first.device) for cap in caps]
            self.reference = first
            return Gaze.cat_frames([frame_gaze(self.pyramid, [ids] * len(first)) for ids in whole])

        std = constant(IMAGENET.std, first.device).view(3, 1, 1)
        # The statistics' mean cancels.
        scores = cell_changes(last, self.reference, self.pyramid, std)
        kept = highest_cells(scores, self.selector.threshold, self.pyramid)
        if self.selector.since == "previous":
            self.reference = first
        else:
            gazed = self._pixels([ids[: max(caps)] for ids in kept], first.device)  # (B, S, S)
            self.reference = torch.where(gazed[:, None], first, self.reference)
        return Gaze.cat_frames(
            [frame_gaze(self.pyramid, [ids[:cap] for ids in kept]) for cap in caps]
        )

    def _pixels(self, ids: list[Int[Tensor, " _"]], device: torch.device) -> Bool[Tensor, "B S S"]:
        """True on the pixels of the cells."""
        inside = torch.zeros(
            len(ids), self.pyramid.side, self.pyramid.side, dtype=torch.bool, device=device
        )
        edges = self.pyramid.pixel_edges(self.pyramid.side)
        grid = self.pyramid.grids[-1]
        for clip, cells in enumerate(ids):
            for cell in (cells - self.pyramid.offsets[-1]).tolist():
                row, column = divmod(cell, grid)
                inside[clip, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = True
        return inside
