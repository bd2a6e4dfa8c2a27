"""The group `task`: what measures gazes, by `task.name`.

A new task of the package is a class here, an entry in `TASKS` and a file in `configs/task`; one from
outside needs none of them (`docs/plugins.md`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.reconstruction.video_mae.checkpoint import read_mae_config
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.tasks.losses import FrameLosses
from autogaze.tasks.published import PublishedTask, is_published
from autogaze.tasks.siglip_video_feature_reconstruction import SiglipVideoFeatureReconstruction
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.training.config import read, unknown_option
from autogaze.training.plugins import call, find, with_attributes
from autogaze.utils.checkpoints import config_file
from autogaze.utils.hub import find_checkpoint


@dataclass(frozen=True)
class TaskConfig:
    """Options that all tasks have.

    Args:
        scales: of the gazes; those of the model.
        recon_sample_rate: share of a clip's frames that are reconstructed per training step.
    """

    scales: str = "32+64+112+224"
    recon_sample_rate: float = 1.0

    def build(self, pyramid: PatchPyramid) -> Task:
        """The task, for gazes of this pyramid.

        Raises:
            TrainingError: options that do not fit.
            CheckpointError: weights that cannot be loaded.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class CanvasConfig(TaskConfig):
    """`canvas_reconstruction`: closed form, without weights."""

    def build(self, pyramid: PatchPyramid) -> Task:
        parsed = PatchPyramid.parse(self.scales, pyramid.patch_size)
        return CanvasReconstruction(parsed, self.recon_sample_rate)


@dataclass(frozen=True)
class VideoMAETaskConfig(TaskConfig):
    """`video_mae_reconstruction`.

    Args:
        recon_model: a folder, a hub id (`facebook/vit-mae-large`) or a file to start from; null:
            random weights.
        recon_model_config: `loss_type`, `loss_weights` and `loss_networks`, by default those in
            the config.json of `recon_model`; and values of `VideoMAEConfig`, the shape of a model that starts
            from random weights.
        default_loss_type, default_loss_weights: for a `recon_model` whose config.json names no
            loss (an image MAE), and for random weights.
    """

    recon_sample_rate: float = 0.125
    recon_model: str | None = None
    recon_model_config: dict[str, Any] = field(default_factory=dict)
    default_loss_type: str = "l1"
    default_loss_weights: str = "1"

    def build(self, pyramid: PatchPyramid) -> Task:
        config = {k: v for k, v in self.recon_model_config.items() if v is not None}
        names = ("loss_type", "loss_weights", "loss_networks")
        losses = {name: config.pop(name, None) for name in names}
        shape = {field.name for field in fields(VideoMAEConfig)}
        for name in config.keys() - shape:
            group = "task.recon_model_config"
            raise TrainingError(unknown_option(group, name, shape | set(losses)))
        config["scales"] = self.scales
        checkpoint = None if self.recon_model is None else find_checkpoint(self.recon_model)
        has_config = checkpoint is not None and config_file(checkpoint).is_file()
        trained_with = read_mae_config(checkpoint) if checkpoint and has_config else {}
        if losses["loss_type"] is None and "loss_type" not in trained_with:
            losses["loss_type"] = self.default_loss_type
            losses["loss_weights"] = losses["loss_weights"] or self.default_loss_weights
        if checkpoint is not None:
            if not has_config and len(config) > 1:  # more than the scales
                config = {"config": VideoMAEConfig.of({"image_size": pyramid.side, **config})}
            return VideoMAETask.from_checkpoint(
                checkpoint, **losses, recon_sample_rate=self.recon_sample_rate, **config
            )
        terms = FrameLosses.parse(
            losses["loss_type"], losses["loss_weights"] or 1, loss_networks=losses["loss_networks"]
        )
        mae = VideoMAE(VideoMAEConfig.of({"image_size": pyramid.side, **config}))
        return VideoMAETask(mae, terms, self.recon_sample_rate)


@dataclass(frozen=True)
class SiglipConfig(TaskConfig):
    """`siglip_video_feature_reconstruction`.

    Args:
        encoder: a folder or hub id.
        decoder: options of `FeatureDecoder`.
    """

    recon_sample_rate: float = 0.125
    encoder: str = "google/siglip2-base-patch16-224"
    decoder: dict[str, Any] = field(default_factory=dict)

    def build(self, pyramid: PatchPyramid) -> Task:
        return SiglipVideoFeatureReconstruction.from_pretrained(
            self.encoder,
            scales=self.scales,
            decoder=dict(self.decoder),
            recon_sample_rate=self.recon_sample_rate,
        )


@dataclass(frozen=True)
class OutsideTask(TaskConfig):
    """A task from outside the package: a class, or a function that makes one.

    Args:
        target: gets its options, and of `pyramid`, `scales` and `recon_sample_rate` what its
            signature names.
    """

    target: Callable[..., Any] = Task
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, pyramid: PatchPyramid) -> Task:
        parsed = PatchPyramid.parse(self.scales, pyramid.patch_size) if self.scales else pyramid
        offered = {
            "pyramid": parsed,
            "scales": "+".join(map(str, parsed.scales)),
            "recon_sample_rate": self.recon_sample_rate,
        }
        options = with_attributes(self.options) if is_published(self.target) else self.options
        made = call(self.target, options, offered, "task")
        if isinstance(made, Task):
            return made
        if is_published(made):
            return PublishedTask(made, parsed, self.recon_sample_rate)
        raise TrainingError(
            f"task: {self.target.__qualname__} made {type(made).__name__}, which is neither an "
            "autogaze.tasks.base.Task nor a module with forward(inputs, gaze_outputs)"
        )


TASKS: dict[str, type[TaskConfig]] = {
    "canvas_reconstruction": CanvasConfig,
    "video_mae_reconstruction": VideoMAETaskConfig,
    "siglip_video_feature_reconstruction": SiglipConfig,
}
"""What `task.name` can be."""


def read_task(options: Mapping[str, Any]) -> TaskConfig:
    """The task that the options describe."""
    kind, options = find("task", options, TASKS)
    if isinstance(kind, type) and issubclass(kind, TaskConfig):
        return read(kind, options, "task")
    shared = {
        name: options.pop(name) for name in ("scales", "recon_sample_rate") if name in options
    }
    common = read(TaskConfig, {"scales": "", **shared}, "task")
    return OutsideTask(common.scales, common.recon_sample_rate, kind, options)
