"""Greedy: the patch that lowers the canvas loss most, then the next one, and so on.

It needs no weights but the whole frame, and is the reference and the teacher of the learned
selector. Exact: every patch brings the largest drop in loss there is, ties going to the lowest id
(`autogaze.reconstruction.greedy_search`).
"""

import numpy as np
import torch

from autogaze.clips import Clips, Ratio
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.greedy_search import CanvasSearch, Search
from autogaze.selectors.base import (
    CausalStream,
    SelectionStream,
    Selector,
    frame_gaze,
    pyramid_or_default,
)


class Greedy(Selector):
    """Patches in the order of their drop in canvas loss.

    With `loss`, a frame stops when its canvas loss is at most `loss`, at its cap, or when all
    patches are taken. Without a cap any loss is met, since all finest patches together
    reconstruct the frame (but for the uncovered margin of a cropped pyramid). With `ratio`
    alone, a frame stops at its cap or when no patch lowers the loss. Every frame takes at
    least one patch.
    """

    name = "greedy"
    metric = "canvas"
    # By eye, on real clips: at 0.03 objects blur, at 0.02 they keep their edges and flat
    # surroundings blur (4 % of the patches), at 0.01 little is missing (11 %).
    default_loss = 0.02

    def __init__(self, pyramid: PatchPyramid | None = None) -> None:
        self.pyramid = pyramid_or_default(pyramid)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _GreedyStream(self, ratio, loss)


class _GreedyStream(CausalStream[Greedy]):
    """Searches on one canvas per clip."""

    def __init__(self, selector: Greedy, ratio: Ratio | None, loss: float | None) -> None:
        super().__init__(selector, ratio)
        self.loss = loss
        self.search: CanvasSearch | None = None

    def choose(self, frame: Clips, cap: int) -> Gaze:
        pictures = frame.unit()[:, 0]
        if self.search is None:
            self.search = CanvasSearch(self.pyramid, len(pictures), pictures.device)
        ids, losses = [], []
        for clip, picture in enumerate(pictures):
            search = self.search.start(picture, clip)
            while len(search.chosen) < cap:
                patch, drop = search.best()
                if search.chosen and self._is_done(search, drop):
                    break
                search.take(patch)
            ids.append(self.search.finish(search.chosen, clip))
            losses.append(search.loss)
        column = torch.tensor(losses, device=pictures.device)[:, None]
        return frame_gaze(self.pyramid, ids, losses=column, metric=self.selector.metric)

    def _is_done(self, search: Search, drop: float) -> bool:
        """Whether the threshold is reached, or, without one, the best patch lowers the loss no more."""
        if self.loss is None:
            return drop <= 0
        # Rounded to float32 as it is reported, so that a reported loss is never above.
        return bool(np.float32(search.loss) <= self.loss)
