"""Controls: random patches and centre patches, the baselines of every selector."""

import torch

from autogaze.clips import Clips, Ratio
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import (
    CausalStream,
    SelectionStream,
    Selector,
    frame_gaze,
    pyramid_or_default,
)

DEFAULT_RATIO = 0.1
"""Ratio when none is given: that of the AutoGaze paper, section 4."""


class Centre(Selector):
    """The patches whose centres lie nearest the centre of the frame, the same in every frame.

    Of patches equally near, coarse ones come first, then the lower id.
    """

    name = "centre"
    reads_pixels = False

    def __init__(self, pyramid: PatchPyramid | None = None) -> None:
        self.pyramid = pyramid_or_default(pyramid)
        boxes = self.pyramid.rectangles.double()
        offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - self.pyramid.side / 2
        # Rounded to 1/1024 square pixels, so that float32 errors break no ties.
        distance = (offset.square().sum(dim=1) * 1024).round()
        self.order = distance.argsort(stable=True)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _CentreStream(self, DEFAULT_RATIO if ratio is None else ratio)


class _CentreStream(CausalStream[Centre]):
    """Selects the same patches in every frame."""

    def choose(self, frame: Clips, cap: int) -> Gaze:
        ids = self.selector.order[:cap].to(frame.frames.device)
        return frame_gaze(self.pyramid, [ids] * frame.num_clips)


class Random(Selector):
    """Patches of all scales, uniformly and without replacement, as many as the cap.

    One seed per clip is drawn from `generator` (torch's global one if None), so that clips get
    the same patches in a batch, one after another, or frame by frame.
    """

    name = "random"
    reads_pixels = False

    def __init__(self, pyramid: PatchPyramid | None = None) -> None:
        self.pyramid = pyramid_or_default(pyramid)

    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        return _RandomStream(self, DEFAULT_RATIO if ratio is None else ratio, generator)


class _RandomStream(CausalStream[Random]):
    """Selects with one generator per clip."""

    def __init__(self, selector: Random, ratio: Ratio, generator: torch.Generator | None) -> None:
        super().__init__(selector, ratio)
        self.generator = generator
        self.generators: list[torch.Generator] = []

    def choose(self, frame: Clips, cap: int) -> Gaze:
        device = frame.frames.device
        if not self.generators:
            self.generators = [self._seeded() for _ in range(frame.num_clips)]
        ids = [
            torch.randperm(self.pyramid.num_patches, generator=generator)[:cap].to(device)
            for generator in self.generators
        ]
        return frame_gaze(self.pyramid, ids)

    def _seeded(self) -> torch.Generator:
        source = self.generator
        device = "cpu" if source is None else source.device
        seed = torch.randint(2**62, (1,), generator=source, device=device)
        return torch.Generator().manual_seed(int(seed))
