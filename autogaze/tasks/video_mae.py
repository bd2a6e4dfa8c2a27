"""VideoMAE reconstruction as a task: the metric that published selectors were trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import (
    VideoMAE,
    VideoMAEConfig,
    save_video_mae,
)
from autogaze.reconstruction.video_mae.checkpoint import (
    PUBLISHED_PIXELS,
    PUBLISHED_PREFIX,
    choose_config,
    load_weights,
    read_mae_config,
    read_weights,
    statistics_of,
    with_weights,
)
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.losses import FrameLosses, check_terms
from autogaze.utils.checkpoints import under_prefix
from autogaze.utils.device import exact
from autogaze.utils.hub import find_checkpoint
from autogaze.utils.normalization import IMAGENET, PixelStatistics


class VideoMAETask(Task):
    """Loss of a frame: weighted terms between it and its reconstruction by a VideoMAE.

    Args:
        mae: the reconstruction model; the task has its scales.
        losses: the terms (AutoGaze, section 3.2: l1 + 0.3 dinov2_reg + 0.3 siglip2).
        recon_sample_rate: see `Task`.
        name: of the metric, in figures.
        statistics: by which the model's frames are normalised, and the pixels of `l1`. None for
            a new model, which has ImageNet's.
    """

    statistics: PixelStatistics = IMAGENET

    def __init__(
        self,
        mae: VideoMAE,
        losses: FrameLosses,
        recon_sample_rate: float = 0.125,
        name: str = "VideoMAE",
        statistics: PixelStatistics | None = None,
    ) -> None:
        super().__init__(mae.config.pyramid, recon_sample_rate)
        self.metric = name
        self.mae = mae
        self.losses = losses
        self._is_new = statistics is None
        self._normalise_by(statistics or IMAGENET)

    def _normalise_by(self, statistics: PixelStatistics) -> None:
        self.statistics = statistics
        self.losses.normalise_by(statistics)

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        chosen = list(scored)
        made = self.mae(self.statistics.normalise(frames), gaze, chosen)
        # Under autocast the last projection is in half precision; losses never are.
        made = self.statistics.denormalise(made.to(exact(made.dtype)))
        losses, terms = self.losses(made, frames[:, chosen])
        pictures = made.detach().clamp(0, 1)
        return TaskOutput(tuple(chosen), losses, pictures, terms if len(terms) > 1 else {})

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        loss_type: str | None = None,
        loss_weights: str | float | None = None,
        loss_networks: Mapping[str, str] | None = None,
        recon_sample_rate: float = 0.125,
        name: str = "VideoMAE",
        config: VideoMAEConfig | None = None,
        **changes: Any,
    ) -> "VideoMAETask":
        """The task of a checkpoint.

        Frames are normalised as its `preprocessor_config.json` says. Without that file they are as for the
        published `videomae.pt` (`PUBLISHED_PIXELS`), or as this package's version 0.1.0 had them
        if that wrote it (ImageNet's statistics).

        Args:
            source, config, changes: see `load_video_mae`.
            loss_type, loss_weights, loss_networks: see `FrameLosses.parse`; by default those of
                the checkpoint's `config.json`, else l1. Frozen networks that the
                checkpoint holds, as the published one does, are taken from it.
            recon_sample_rate, name: see the class.

        Raises:
            CheckpointError: see `load_video_mae`.
            TrainingError: unknown losses.
        """
        checkpoint = find_checkpoint(source)
        shape = choose_config(checkpoint, config, changes)
        state = read_weights(checkpoint)
        mae = with_weights(shape, state, checkpoint)
        trained_with = {} if config is not None else read_mae_config(checkpoint)
        if loss_type is None:
            loss_type = str(trained_with.get("loss_type", "l1"))
            if loss_weights is None:
                loss_weights = trained_with.get("loss_weights", 1)
        elif loss_weights is None:
            check_terms(loss_type)
            raise TrainingError(f"loss_type {loss_type!r} needs loss_weights, one for each term")
        if loss_networks is None:
            loss_networks = {
                name: source
                for name, source in dict(trained_with.get("loss_networks") or {}).items()
                if name in loss_type.split("+")
            }
        networks = under_prefix(state, PUBLISHED_PREFIX)
        losses = FrameLosses.parse(loss_type, loss_weights, networks, loss_networks)
        pixels = statistics_of(checkpoint, state) or PUBLISHED_PIXELS
        return cls(mae, losses, recon_sample_rate, name, pixels)

    def load_weights(self, source: str | Path) -> None:
        """Replace the VideoMAE's weights, and the frozen networks' where the source has any.

        Frames are normalised as the source says from then on. If it does not say, as the published
        `videomae.pt`, the statistics of the checkpoint that this task was made of stay.
        """
        checkpoint = find_checkpoint(source)
        state = read_weights(checkpoint)
        pixels = statistics_of(checkpoint, state)
        load_weights(self.mae, state, checkpoint)
        if pixels is not None or self._is_new:
            self._normalise_by(pixels or PUBLISHED_PIXELS)
            self._is_new = False
        self.losses.replace_networks(under_prefix(state, PUBLISHED_PREFIX))

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the VideoMAE and the names and weights of its losses, without frozen networks.

        `from_checkpoint` reads the folder; for `half` see `save_video_mae`.
        """
        save_video_mae(
            self.mae, folder, half=half, statistics=self.statistics, **self.losses.recipe
        )
