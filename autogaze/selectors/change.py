"""Change: cells of the finest scale that differ most from the frame before, over the whole clip.

After the RGB form of Efficient Video Sampling (arXiv 2510.14624): the L1 distance of
every cell to the same cell one frame earlier, and one threshold per clip, the q-quantile
of all its distances, so that busy frames get more patches than quiet ones.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from autogaze.checks import describe_value, is_finite
from autogaze.clips import ClipsLike, Ratio
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


class Change(Selector):
    """Cells of the finest scale that change by more than the clip's own quantile.

    The first frame is taken whole (`finest_cells.whole_frame`); a static clip costs one patch
    per frame. Under a `ratio` the most changed cells come first. The threshold is known only
    at the end of the clip: a stream decides everything in `finish`, and keeps one frame and
    all distances.

    Args:
        pyramid: the patches to choose from.
        quantile: q in [0, 1), the share of cells of later frames that is left out.
    """

    name = "change"

    def __init__(self, pyramid: PatchPyramid | None = None, quantile: float = 0.75) -> None:
        if not (is_finite(quantile) and 0 <= quantile < 1):
            raise SelectorError(f"quantile must lie in [0, 1), got {describe_value(quantile)}")
        self.pyramid = pyramid_or_default(pyramid)
        self.quantile = quantile

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _ChangeStream(self, ratio)


class _ChangeStream(SelectionStream[Change]):
    """Collects distances frame by frame."""

    def __init__(self, selector: Change, ratio: Ratio | None) -> None:
        super().__init__(selector, ratio)
        self.previous: Shaped[Tensor, "B 3 S S"] | None = None
        self.scores: list[Float[Tensor, "B cells"]] = []

    def step(self, frame: ClipsLike) -> Gaze:
        """A gaze at no frames: the threshold is not known yet."""
        clips = self.admit(frame)
        self.cap(self.num_frames - 1)  # a missing ratio is an error now, not at the end
        picture = kept_frame(clips)
        if self.previous is not None:
            self.scores.append(cell_changes(picture, self.previous, self.pyramid))
        self.previous = picture
        return no_frames(self.pyramid, clips.num_clips, self.frames_device)

    def finish(self) -> Gaze | None:
        """The gaze at the whole clip."""
        self.finished = True
        if self.previous is None:
            return None
        whole = whole_frame(self.pyramid, self.cap(0)).to(self.previous.device)
        gazes = [frame_gaze(self.pyramid, [whole] * len(self.previous))]
        threshold = self._threshold()
        for index, scores in enumerate(self.scores, start=1):
            ids = highest_cells(scores, threshold, self.pyramid)
            cap = self.cap(index)
            gazes.append(frame_gaze(self.pyramid, [cells[:cap] for cells in ids]))
        return Gaze.cat_frames(gazes).to(self.frames_device)

    def _threshold(self) -> Float[Tensor, "B 1"] | float:
        """The q-quantile of all distances of every clip."""
        if not self.scores:
            return 0.0
        scores = torch.cat(self.scores, dim=1)
        below = int(self.selector.quantile * scores.shape[1])
        if below == 0:
            return 0.0
        return scores.kthvalue(below, dim=1, keepdim=True).values
