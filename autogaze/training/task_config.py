"""The `task` group: what judges gazes, by `task.name`.

A new task is a class here, an entry in `TASKS` and a config in `configs/task`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.reconstruction.video_mae.checkpoint import read_mae_config
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.siglip_video_feature_reconstruction import SiglipVideoFeatureReconstruction
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.training.config import choose, read, unknown
from autogaze.utils.checkpoints import config_file, find_checkpoint


@dataclass(frozen=True)
class TaskSource(ABC):
    """What all tasks can be told.

    Args:
        scales: of the gazes; those of the model.
        recon_sample_rate: share of a clip's frames that is judged in a step.
    """

    scales: str = "32+64+112+224"
    recon_sample_rate: float = 1.0

    @abstractmethod
    def build(self, pyramid: PatchPyramid) -> Task:
        """The task, for gazes of this pyramid.

        Raises:
            TrainingError: options that do not fit.
            CheckpointError: weights that cannot be had.
        """

    def max_num_frames(self, task: Task) -> int | None:
        """Frames of the longest clips that a task of this kind can judge; None: any."""
        return None


@dataclass(frozen=True)
class CanvasSource(TaskSource):
    """`canvas_reconstruction`: closed form, nothing to train."""

    def build(self, pyramid: PatchPyramid) -> Task:
        parsed = PatchPyramid.parse(self.scales, pyramid.patch_size)
        return CanvasReconstruction(parsed, self.recon_sample_rate)


@dataclass(frozen=True)
class VideoMAESource(TaskSource):
    """`video_mae_reconstruction`.

    Args:
        recon_model: a folder, a hub id (`facebook/vit-mae-large`) or a file to start from;
            null starts from nothing.
        recon_model_config: `loss_type` and `loss_weights`, by default those that the
            config.json of `recon_model` says; besides, values of `VideoMAEConfig`: the
            shape, where it starts from nothing.
        default_loss_type, default_loss_weights: of a judge that says none of its own: an
            image MAE, or one from nothing.
    """

    recon_sample_rate: float = 0.125
    recon_model: str | None = None
    recon_model_config: Mapping[str, Any] = field(default_factory=dict)
    default_loss_type: str = "l1"
    default_loss_weights: str = "1"

    def build(self, pyramid: PatchPyramid) -> Task:
        config = {k: v for k, v in self.recon_model_config.items() if v is not None}
        losses = {key: config.pop(key, None) for key in ("loss_type", "loss_weights")}
        shape = {field.name for field in fields(VideoMAEConfig)}
        for name in config:
            if name not in shape:
                option = f"option task.recon_model_config.{name}"
                raise TrainingError(unknown(option, name, shape | set(losses)))
        config["scales"] = self.scales
        place = None if self.recon_model is None else find_checkpoint(self.recon_model)
        has_config = place is not None and config_file(place).is_file()
        says_its_own = place is not None and has_config and "loss_type" in read_mae_config(place)
        if losses["loss_type"] is None and not says_its_own:
            losses["loss_type"] = self.default_loss_type
            losses["loss_weights"] = losses["loss_weights"] or self.default_loss_weights
        if place is not None:
            if not has_config and len(config) > 1:  # more than the scales
                config = {"config": VideoMAEConfig.of({"image_size": pyramid.side, **config})}
            return VideoMAEReconstruction.from_checkpoint(
                place, **losses, recon_sample_rate=self.recon_sample_rate, **config
            )
        terms = FrameLosses.parse(losses["loss_type"], losses["loss_weights"] or 1)
        mae = VideoMAE(VideoMAEConfig.of({"image_size": pyramid.side, **config}))
        return VideoMAEReconstruction(mae, terms, self.recon_sample_rate)

    def max_num_frames(self, task: Task) -> int | None:
        """See `TaskSource`."""
        return task.mae.config.max_num_frames if isinstance(task, VideoMAEReconstruction) else None


@dataclass(frozen=True)
class SiglipSource(TaskSource):
    """`siglip_video_feature_reconstruction`.

    Args:
        encoder: a folder or hub id.
        decoder: options of `FeatureDecoder`.
    """

    recon_sample_rate: float = 0.125
    encoder: str = "google/siglip2-base-patch16-224"
    decoder: Mapping[str, Any] = field(default_factory=dict)

    def build(self, pyramid: PatchPyramid) -> Task:
        return SiglipVideoFeatureReconstruction.from_pretrained(
            self.encoder,
            scales=self.scales,
            decoder=dict(self.decoder),
            recon_sample_rate=self.recon_sample_rate,
        )


TASKS: dict[str, type[TaskSource]] = {
    "canvas_reconstruction": CanvasSource,
    "video_mae_reconstruction": VideoMAESource,
    "siglip_video_feature_reconstruction": SiglipSource,
}
"""What `task.name` can be."""


def read_task(options: Mapping[str, Any]) -> TaskSource:
    """The task that the options describe."""
    options = dict(options)
    kind: type[TaskSource] = choose(TASKS, options.pop("name", None), "task.name")
    return read(kind, options, "task")
