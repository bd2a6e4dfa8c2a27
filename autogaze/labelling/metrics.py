"""The judge that a user names, as a search and as a task."""

from dataclasses import dataclass
from typing import Any

from autogaze.errors import TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher, Searcher
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.utils.device import Place

CANVAS = "canvas"


@dataclass(frozen=True)
class JudgeChoice:
    """What `autogaze label` is told of the judge.

    Args:
        judge: "canvas", "learned" (the package's own VideoMAE), or a VideoMAE's folder or
            hub id.
        scales: of the patches; the judge's own by default.
        loss_type, loss_weights: of a VideoMAE; see `FrameLosses.parse`.
        device, dtype: where a VideoMAE runs, and in what precision.
        batch: candidates that a VideoMAE reconstructs together.
        shortlist: candidates that a VideoMAE is asked about each time; see `VideoMAESearcher`.
    """

    judge: str = CANVAS
    scales: str | None = None
    loss_type: str | None = None
    loss_weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int | None = None
    shortlist: int | None = None

    def build(self, clip_len: int) -> tuple[Searcher, Task]:
        """The search, and the task that the naive search would ask.

        Raises:
            TrainingError: options that do not go together, or clips that are too long.
            CheckpointError: no VideoMAE there.
        """
        place = Place.parse(self.device, self.dtype)
        if self.judge == CANVAS:
            plain = JudgeChoice(scales=self.scales)
            if self != plain:
                raise TrainingError(
                    "--loss-type, --loss-weights, --device, --dtype, --batch and --shortlist "
                    "are for a VideoMAE; the judge is the canvas"
                )
            pyramid = PatchPyramid.parse(self.scales, 16) if self.scales else PatchPyramid()
            return CanvasSearcher(pyramid), CanvasReconstruction(pyramid)

        from autogaze.labelling.video_mae_search import VideoMAESearcher
        from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

        changes: dict[str, Any] = {} if self.scales is None else {"scales": self.scales}
        task = VideoMAEReconstruction.from_checkpoint(
            self.judge, loss_type=self.loss_type, loss_weights=self.loss_weights, **changes
        ).to(place.device)
        known = task.mae.config.max_num_frames
        if clip_len > known:
            raise TrainingError(
                f"--clip-len {clip_len}: {self.judge} knows {known} frames, not more"
            )
        return VideoMAESearcher(task, self.batch, place.dtype, self.shortlist), task
