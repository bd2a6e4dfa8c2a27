"""A judge that no selector was trained on: how alike canvas and frame look to a network."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.benchmarks.quality.judges import Judge, Shown, Trial
from autogaze.reconstruction.efficientnet import EfficientNetLite
from autogaze.tasks.efficientnet_loss import DEPTHS

FRAMES_AT_ONCE = 16

Features = Callable[[Float[Tensor, "F 3 S S"]], Sequence[Float[Tensor, "F C *places"]]]
"""Frames in [0, 1] to one or more maps of features, or to vectors."""


class FeatureJudge(Judge):
    """How different canvas and frame look to a network.

    The loss of a frame is 2 - 2 cosine of the two feature vectors at a place, averaged over
    the places of a map and then over maps, in [0, 4]: LPIPS (https://arxiv.org/abs/1801.03924)
    without learned weights, and what the loss term `efficientnet` is. The same picture has
    0, an unrelated one about 2.

    Args:
        features: of frames.
        name: in figures.
    """

    unit = "2 - 2 cosine of features of canvas and frame, in [0, 4]"

    def __init__(self, features: Features, name: str) -> None:
        self.features = features
        self.name = name
        self._real: tuple[Shown, list[tuple[Tensor, ...]]] | None = None

    def losses(self, trial: Trial) -> Float[Tensor, "B J"]:
        shown = trial.shown
        if self._real is None or self._real[0] is not shown:
            # Those of the frames themselves are kept while the same frames are judged again.
            self._real = shown, self._parts(shown.pick(shown.frames))
        made = self._parts(shown.pick(trial.canvas.frames))
        parts = [_difference(*both) for both in zip(made, self._real[1], strict=True)]
        return torch.cat(parts).view(shown.judged.shape)

    def _parts(
        self, pictures: Float[Tensor, "B J 3 S S"]
    ) -> list[tuple[Float[Tensor, "F _ _"], ...]]:
        """Directions of all pictures, a few at a time."""
        return [self._directions(some) for some in pictures.flatten(0, 1).split(FRAMES_AT_ONCE)]

    def _directions(self, frames: Float[Tensor, "F 3 S S"]) -> tuple[Float[Tensor, "F _ _"], ...]:
        """Unit vectors of all maps, (frames, channels, places)."""
        return tuple(
            F.normalize(features.reshape(*features.shape[:2], -1), dim=1)
            for features in self.features(frames)
        )


def _difference(
    made: Sequence[Float[Tensor, "F _ _"]], real: Sequence[Float[Tensor, "F _ _"]]
) -> Float[Tensor, " F"]:
    maps = [2 - 2 * (a * b).sum(1).mean(1) for a, b in zip(made, real, strict=True)]
    return torch.stack(maps).mean(0)


class EfficientNetFeatures(nn.Module):
    """The feature maps of an EfficientNet-Lite that the loss term `efficientnet` looks at."""

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Float[Tensor, "F 3 S S"]) -> tuple[Float[Tensor, "F _ _ _"], ...]:
        return self.network(frames.contiguous(memory_format=torch.channels_last), DEPTHS)
