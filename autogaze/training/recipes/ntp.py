"""NTP: the gazes are labels, and what they are worth was measured when they were made."""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.loader import PlacedBatch
from autogaze.training.moment import Moment
from autogaze.training.recipes.base import Recipe, judged_frames


class NTPRecipe(Recipe):
    """Next-token prediction (`autogaze.algorithms.ntp`)."""

    name = "ntp"
    needs_labels = True

    def lesson(
        self,
        model: AutoGaze,
        task: Task,
        batch: PlacedBatch,
        moment: Moment,
        device: torch.device,
    ) -> Lesson:
        frames = batch.clips.frames.to(device, non_blocking=True)
        rows = GazeRows.of_gaze(batch.clips.gaze(model.pyramid).to(device))
        judged = judged_frames(task, frames.shape[1], moment)
        labels = batch.clips.labels or ()
        if not all(label.losses for label in labels):
            return Lesson(frames, rows, judged)
        # Gazes of a row stand in the order of its slots, and so do their losses.
        flat = [loss for label in labels for frame in label.losses for loss in frame]
        losses = torch.zeros(rows.kept.shape, device=device)
        losses[rows.kept] = torch.tensor(flat, device=device)
        return Lesson(frames, rows, judged, losses, rows.kept)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return ntp_loss(
            rollout, optimize_task_loss_prediction=self.options.optimize_task_loss_prediction
        )
