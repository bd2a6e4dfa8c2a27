"""Which judges are asked, and where their weights are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import CheckpointError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Reconstruction, reconstruct
from autogaze.reconstruction.efficientnet import EfficientNetLite, load_efficientnet, weights_file
from autogaze.selectors.registry import LEARNED
from autogaze.tasks.base import Task
from autogaze.tasks.losses import DEPTHS
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

# Who judges what a gaze has kept of its frames.

CANVAS, VIDEO_MAE, EFFICIENTNET = "canvas", "video-mae", "efficientnet"


@dataclass(frozen=True, eq=False)
class Shown:
    """Clips that gazes are judged on.

    Attributes:
        frames: (B, T, 3, S, S) RGB in [0, 1].
        judged: (B, J) numbers of the frames that networks judge.
    """

    frames: Float[Tensor, "B T 3 S S"]
    judged: Int[Tensor, "B J"]

    @classmethod
    def of(
        cls, frames: Float[Tensor, "B T 3 S S"], every: int = 1, starts: Sequence[int] = ()
    ) -> "Shown":
        """Every so-many-th frame is judged.

        Args:
            every: 1 for all frames.
            starts: for every clip a number that says where it begins, modulo `every`.
        """
        B, T = frames.shape[:2]
        first = torch.tensor(starts or [0] * B) % every
        return cls(frames, first[:, None] + every * torch.arange(T // every))

    @property
    def all_are_judged(self) -> bool:
        return self.judged.shape[1] == self.frames.shape[1]

    def pick(self, pictures: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B J 3 S S"]:
        """The judged ones."""
        if self.all_are_judged:
            return pictures
        judged = self.judged.to(pictures.device)
        return pictures[torch.arange(len(judged), device=pictures.device)[:, None], judged]


@dataclass(frozen=True, eq=False)
class Trial:
    """Gazes at some clips, to be judged."""

    shown: Shown
    gaze: Gaze

    @cached_property
    def canvas(self) -> Reconstruction:
        """What the gazed patches alone draw."""
        return reconstruct(self.shown.frames, self.gaze)


class Judge(ABC):
    """Gives frames losses.

    Attributes:
        name: in figures.
        unit: what a loss is, in one line.
    """

    name: str
    unit: str

    @abstractmethod
    def losses(self, trial: Trial) -> Float[Tensor, "B J"]:
        """Of every judged frame; the less, the better it was kept."""


class CanvasJudge(Judge):
    """How far the canvas is from the frame, in pixel values; judges all frames."""

    name = CANVAS
    unit = "mean |canvas - frame| of pixel values in [0, 1]"

    def losses(self, trial: Trial) -> Float[Tensor, "B T"]:
        return trial.canvas.losses


class TaskJudge(Judge):
    """A trained reconstruction, by the losses that it was trained with.

    Args:
        task: judges frames.
        name: in figures.
        unit: what its losses are.
    """

    def __init__(self, task: Task, name: str, unit: str) -> None:
        self.task = task.eval()
        self.name = name
        self.unit = unit

    def losses(self, trial: Trial) -> Float[Tensor, "B J"]:
        frames, gaze, judged = trial.shown.frames, trial.gaze, trial.shown.judged.tolist()
        if trial.shown.all_are_judged:
            return self.task(frames, gaze, judged[0]).losses
        clips = zip(frames, gaze, judged, strict=True)
        return torch.cat([self.task(clip[None], own, some).losses for clip, own, some in clips])


# A judge that no selector was trained on: how alike canvas and frame look to a network.

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


VARIANT = "lite1"


@dataclass(frozen=True)
class JudgeOptions:
    """Which judges are asked; the canvas always is.

    Attributes:
        video_mae: checkpoint of a VideoMAE ("learned", a folder, file or hub id), if it is
            asked.
        efficientnet: whether EfficientNet-Lite1 is asked.
    """

    video_mae: str | None = None
    efficientnet: bool = True

    def check(self) -> None:
        """Raise, before anything slow, for a judge that cannot be there.

        Raises:
            CheckpointError: no such folder or hub id.
            MissingExtraError: no weights of EfficientNet-Lite1, or of what the judge
                "learned" looks at features with.
        """
        if self.efficientnet:
            weights_file(VARIANT)
        place = self.video_mae
        if place == LEARNED:
            weights_file("lite0")
        if place is None or place == LEARNED or Path(place).exists():
            return
        owner, _, name = place.partition("/")
        if not (owner and name) or "/" in name or owner[0] in ".~":
            raise CheckpointError(f"--judge {place}: no such VideoMAE checkpoint")

    def load(self, pyramid: PatchPyramid, device: torch.device) -> list[Judge]:
        """The judges of gazes of a pyramid, on a device.

        Raises:
            CheckpointError: weights that cannot be loaded, or a VideoMAE of other scales.
        """
        judges: list[Judge] = [CanvasJudge()]
        if self.video_mae is not None:
            task = VideoMAEReconstruction.from_checkpoint(self.video_mae)
            if task.pyramid != pyramid:
                raise CheckpointError(
                    f"--judge {self.video_mae}: judges gazes of {task.pyramid}, but the selectors "
                    f"choose from {pyramid}"
                )
            recipe = task.losses.recipe
            unit = (
                f"{recipe['loss_type']}, weighted {recipe['loss_weights']}, of its reconstruction"
            )
            judges.append(TaskJudge(task.to(device), VIDEO_MAE, unit))
        if self.efficientnet:
            network = EfficientNetFeatures(load_efficientnet(VARIANT)).to(device)
            judges.append(FeatureJudge(network, EFFICIENTNET))
        return judges
