"""Tasks: what a gaze is rewarded for; and the one that measures in a metric's units, by the metric's name."""

import os
from typing import TYPE_CHECKING, Any

from autogaze.errors import CheckpointError, TrainingError
from autogaze.geometry import PatchPyramid

if TYPE_CHECKING:
    from autogaze.tasks.base import Task

CANVAS = "canvas"


def check_metric(name: str) -> None:
    """Raise `CheckpointError` for the VideoMAE that version 0.1.0 carried under the name "learned"."""
    if name == "learned" and not os.path.exists(name):
        raise CheckpointError(
            "the metric 'learned' is not in the package any more: give 'canvas', or the "
            "folder or hub id of a VideoMAE"
        )


def load_metric(
    name: str = CANVAS,
    *,
    scales: str | None = None,
    loss_type: str | None = None,
    loss_weights: str | None = None,
) -> "Task":
    """The task that measures in the units of a reconstruction metric, in evaluation mode.

    Args:
        name: "canvas", or a VideoMAE's folder, file or hub id.
        scales: of the patches; by default the VideoMAE's own, else 32+64+112+224.
        loss_type, loss_weights: of a VideoMAE; see `VideoMAETask.from_checkpoint`.

    Raises:
        TrainingError: losses for the canvas, or unknown ones.
        CheckpointError: no VideoMAE there, or "learned", which is not in the package any more.
    """
    if name == CANVAS:
        if loss_type is not None or loss_weights is not None:
            raise TrainingError(
                f"loss_type and loss_weights are for a VideoMAE, got {loss_type!r} and "
                f"{loss_weights!r} for the canvas"
            )
        from autogaze.tasks.canvas_reconstruction import CanvasReconstruction

        return CanvasReconstruction(PatchPyramid.parse(scales, 16) if scales else PatchPyramid())
    check_metric(name)

    from autogaze.tasks.video_mae import VideoMAETask

    changes: dict[str, Any] = {} if scales is None else {"scales": scales}
    return VideoMAETask.from_checkpoint(
        name, loss_type=loss_type, loss_weights=loss_weights, **changes
    ).eval()
