"""VideoMAE reconstruction as a task: the judge that published selectors were trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.reconstruction.holes import filled_canvas
from autogaze.reconstruction.video_mae import (
    VideoMAE,
    VideoMAEConfig,
    load_video_mae,
    save_video_mae,
)
from autogaze.reconstruction.video_mae.checkpoint import (
    PUBLISHED_PREFIX,
    find_checkpoint,
    load_weights,
    read_config,
)
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.losses import FrameLosses, check_terms
from autogaze.utils.checkpoints import read_state, under_prefix
from autogaze.utils.normalization import IMAGENET


class VideoMAEReconstruction(Task):
    """Loss of a frame: the weighted terms between it and what VideoMAE makes of the gaze.

    Args:
        mae: the reconstruction model; its scales are the task's.
        losses: the terms (AutoGaze, section 3.2: l1 + 0.3 dinov2_reg + 0.3 siglip2).
        recon_sample_rate: see `Task`.
        name: of the judge, in figures.
    """

    def __init__(
        self,
        mae: VideoMAE,
        losses: FrameLosses,
        recon_sample_rate: float = 0.125,
        name: str = "VideoMAE",
    ) -> None:
        super().__init__(mae.config.pyramid, recon_sample_rate)
        self.metric = name
        self.mae = mae
        self.losses = losses
        self.statistics = IMAGENET

    def forward(
        self, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, judged: Sequence[int]
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        chosen = list(judged)
        canvas = None
        if self.mae.config.from_canvas:
            last = max(chosen) + 1  # nothing is painted backwards
            painted = filled_canvas(frames[:, :last], gaze.frames(0, last), chosen)
            canvas = self.statistics.normalise(painted)
        made = self.statistics.denormalise(
            self.mae(self.statistics.normalise(frames), gaze, chosen, canvas)
        )
        losses, terms = self.losses(made, frames[:, chosen])
        shown = made.detach().clamp(0, 1)
        return TaskOutput(tuple(chosen), losses, shown, terms if len(terms) > 1 else ())

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        loss_type: str | None = None,
        loss_weights: str | float | None = None,
        recon_sample_rate: float = 0.125,
        name: str = "VideoMAE",
        config: VideoMAEConfig | None = None,
        **changes: Any,
    ) -> "VideoMAEReconstruction":
        """The task of a checkpoint.

        Args:
            source, config, changes: see `load_video_mae`.
            loss_type, loss_weights: see `FrameLosses.parse`; by default what the
                checkpoint's `config.json` says, else l1. Frozen networks that the
                checkpoint holds, as the published one does, are taken from it.
            recon_sample_rate, name: see the class.

        Raises:
            CheckpointError: see `load_video_mae`.
            TrainingError: unknown losses.
        """
        place = find_checkpoint(source)
        mae = load_video_mae(place, config, **changes)
        said = {} if config is not None else read_config(place)
        if loss_type is None:
            loss_type = str(said.get("loss_type", "l1"))
            loss_weights = said.get("loss_weights", 1) if loss_weights is None else loss_weights
        elif loss_weights is None:
            check_terms(loss_type)
            raise TrainingError(f"loss_type {loss_type!r} needs loss_weights, one for each term")
        published = under_prefix(read_state(place), PUBLISHED_PREFIX)
        losses = FrameLosses.parse(loss_type, loss_weights, published)
        return cls(mae, losses, recon_sample_rate, name)

    def load_weights(self, source: str | Path) -> None:
        """Replace the VideoMAE's weights, and the frozen networks' where the source has any."""
        place = find_checkpoint(source)
        load_weights(self.mae, place)
        self.losses.replace_networks(under_prefix(read_state(place), PUBLISHED_PREFIX))

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the VideoMAE and what its losses mean; `from_checkpoint` reads it back.

        The losses' frozen networks are not in it. `half`: see `save_video_mae`.
        """
        save_video_mae(self.mae, folder, half=half, **self.losses.recipe)
