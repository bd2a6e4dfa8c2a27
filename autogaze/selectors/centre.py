"""Centre: a control. People point cameras at what matters, which is hard to beat."""

import torch

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import Clips, Ratio, SelectionStream, Selector
from autogaze.selectors.frame_stream import PromptStream, frame_gaze

DEFAULT_RATIO = 0.1
"""Taken when no ratio is given: where AutoGaze is published to work (its section 4)."""


class Centre(Selector):
    """The patches whose centres lie nearest the centre of the frame, the same in every frame.

    Of patches equally near, coarse ones come first, then the lower id.

    Args:
        pyramid: the patches to choose from.
    """

    name = "centre"

    def __init__(self, pyramid: PatchPyramid | None = None) -> None:
        self.pyramid = pyramid or PatchPyramid()
        boxes = self.pyramid.rectangles.double()
        offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - self.pyramid.side / 2
        # In whole 1/1024 pixels squared: rectangles are float32, and ties must be ties.
        distance = (offset.square().sum(dim=1) * 1024).round()
        self.order = distance.argsort(stable=True)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _CentreStream(self, DEFAULT_RATIO if ratio is None else ratio)


class _CentreStream(PromptStream[Centre]):
    """The same patches again and again."""

    def choose(self, frame: Clips, cap: int) -> Gaze:
        ids = self.selector.order[:cap].to(frame.frames.device)
        return frame_gaze(self.pyramid, [ids] * frame.num_clips)
