"""Reconstruction metrics: how much of its frames a gaze keeps.

The canvas is always measured; a VideoMAE by its own losses, and features of a network that
no selector was trained with, where they are asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import CheckpointError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import Reconstruction
from autogaze.reconstruction.efficientnet import EfficientNetLite, load_efficientnet, weights_file
from autogaze.tasks import CANVAS, check_metric
from autogaze.tasks.base import Task
from autogaze.tasks.losses import DEPTHS
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.utils.hub import is_hub_id

VIDEO_MAE, FEATURES = "video-mae", "features"

NETWORK = "lite1"
"""The EfficientNet-Lite whose features are compared; nothing is trained with it."""


class MeasuredClips:
    """Clips on which gazes are measured.

    Args:
        frames: (B, T, 3, S, S) RGB in [0, 1].
        every: networks measure every so-many-th frame.
        starts: for every clip the number of its first measured frame, modulo `every`.

    Attributes:
        measured: (B, J) numbers of the frames that networks measure.
    """

    def __init__(
        self, frames: Float[Tensor, "B T 3 S S"], every: int = 1, starts: Sequence[int] = ()
    ) -> None:
        B, T = frames.shape[:2]
        self.frames = frames
        first = torch.tensor(starts or [0] * B) % every
        self.measured = first[:, None] + every * torch.arange(T // every)
        self.all_frames = every == 1

    def select_frames(self, pictures: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B J 3 S S"]:
        """The frames that networks measure."""
        if self.all_frames:
            return pictures
        measured = self.measured.to(pictures.device)
        return pictures[torch.arange(len(measured), device=pictures.device)[:, None], measured]


class Metric(ABC):
    """A loss of frames under a gaze; the less, the more is kept.

    Attributes:
        name: in figures.
        unit: what a loss is, in one line.
    """

    name: str
    unit: str

    @abstractmethod
    def losses(
        self, batch: MeasuredClips, gaze: Gaze, canvas: Reconstruction
    ) -> Float[Tensor, "B J"]:
        """Of every measured frame; `canvas` is the reconstruction of `batch.frames` by `gaze`."""


class CanvasMetric(Metric):
    """Distance of canvas and frame in pixel values; measures all frames."""

    name = CANVAS
    unit = "mean |canvas - frame| of pixel values in [0, 1]"

    def losses(
        self, batch: MeasuredClips, gaze: Gaze, canvas: Reconstruction
    ) -> Float[Tensor, "B T"]:
        return canvas.losses


class VideoMAEMetric(Metric):
    """The losses of a trained reconstruction."""

    name = VIDEO_MAE

    def __init__(self, task: Task, unit: str) -> None:
        self.task = task.eval()
        self.unit = unit

    def losses(
        self, batch: MeasuredClips, gaze: Gaze, canvas: Reconstruction
    ) -> Float[Tensor, "B J"]:
        measured = batch.measured.tolist()
        if batch.all_frames:
            return self.task(batch.frames, gaze, measured[0]).losses
        clips = zip(batch.frames, gaze, measured, strict=True)
        return torch.cat([self.task(clip[None], own, some).losses for clip, own, some in clips])


class FeatureMetric(Metric):
    """Distance of canvas and frame in a network's features.

    The loss of a frame is 2 - 2 cosine of the two feature vectors at a place, averaged over
    the places of a map and then over maps, in [0, 4]: LPIPS (https://arxiv.org/abs/1801.03924)
    without learned weights, and the loss term `efficientnet`. The same picture has 0, an
    unrelated one about 2.

    Args:
        features: frames in [0, 1] to one or more maps of features, or to vectors.
    """

    name = FEATURES
    unit = "2 - 2 cosine of features of canvas and frame, in [0, 4]"

    def __init__(
        self,
        features: Callable[[Float[Tensor, "F 3 S S"]], Sequence[Float[Tensor, "F C *places"]]],
    ) -> None:
        self.features = features
        self._cached: tuple[MeasuredClips, list[tuple[Tensor, ...]]] | None = None

    def losses(
        self, batch: MeasuredClips, gaze: Gaze, canvas: Reconstruction
    ) -> Float[Tensor, "B J"]:
        # The frames' own features are the same for all gazes at them.
        if self._cached is None or self._cached[0] is not batch:
            self._cached = batch, self._directions(batch.select_frames(batch.frames))
        made = self._directions(batch.select_frames(canvas.frames))
        parts = []
        for ours, theirs in zip(made, self._cached[1], strict=True):
            maps = [2 - 2 * (a * b).sum(1).mean(1) for a, b in zip(ours, theirs, strict=True)]
            parts.append(torch.stack(maps).mean(0))
        return torch.cat(parts).view(batch.measured.shape)

    def _directions(
        self, pictures: Float[Tensor, "B J 3 S S"]
    ) -> list[tuple[Float[Tensor, "F C places"], ...]]:
        """Unit vectors at all places of all maps, 16 pictures at a time."""
        return [
            tuple(F.normalize(m.reshape(*m.shape[:2], -1), dim=1) for m in self.features(some))
            for some in pictures.flatten(0, 1).split(16)
        ]


def efficientnet_metric(network: EfficientNetLite) -> FeatureMetric:
    """The maps of an EfficientNet-Lite at the depths of the loss term `efficientnet`."""
    return FeatureMetric(
        lambda frames: network(frames.contiguous(memory_format=torch.channels_last), DEPTHS)
    )


def check_metrics(video_mae: str | None, features: bool) -> None:
    """Raise, before anything slow, for a metric that cannot be loaded.

    Raises:
        CheckpointError: no such folder or hub id.
        MissingExtraError: the network's weights are not installed.
    """
    if features:
        weights_file(NETWORK)
    if video_mae is None or Path(video_mae).exists():
        return
    check_metric(video_mae)
    if not is_hub_id(video_mae):
        raise CheckpointError(f"--metric {video_mae}: no such VideoMAE checkpoint")


def load_metrics(
    video_mae: str | None, features: bool, pyramid: PatchPyramid, device: torch.device
) -> list[Metric]:
    """The metrics of gazes of a pyramid; the canvas comes first.

    Args:
        video_mae: a VideoMAE's checkpoint: folder, file or hub id.
        features: whether features are compared.

    Raises:
        CheckpointError: weights that cannot be loaded, or a VideoMAE of other scales.
    """
    metrics: list[Metric] = [CanvasMetric()]
    if video_mae is not None:
        task = VideoMAETask.from_checkpoint(video_mae)
        if task.pyramid != pyramid:
            raise CheckpointError(
                f"--metric {video_mae}: reconstructs from {task.pyramid}, but the selectors select "
                f"from {pyramid}"
            )
        recipe = task.losses.recipe
        unit = f"{recipe['loss_type']}, weighted {recipe['loss_weights']}, of its reconstruction"
        metrics.append(VideoMAEMetric(task.to(device), unit))
    if features:
        metrics.append(efficientnet_metric(load_efficientnet(NETWORK).to(device)))
    return metrics
