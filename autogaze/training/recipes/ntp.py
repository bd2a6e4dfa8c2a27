"""NTP: the gazes are labels, and what they are worth was measured when they were made."""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.recipes.base import Material, Recipe


class NTPRecipe(Recipe):
    """Next-token prediction (`autogaze.algorithms.ntp`)."""

    name = "ntp"
    needs_labels = True

    def teach(self, material: Material) -> Lesson:
        frames, clips = material.frames, material.batch.clips
        rows = GazeRows.of_gaze(clips.gaze(material.model.pyramid).to(frames.device))
        labels = clips.labels or ()
        if not all(label.losses for label in labels):
            return Lesson(frames, rows, material.judged)
        # Gazes of a row stand in the order of its slots, and so do their losses.
        flat = [loss for label in labels for frame in label.losses for loss in frame]
        losses = torch.zeros(rows.kept.shape, device=frames.device)
        losses[rows.kept] = torch.tensor(flat, device=frames.device)
        return Lesson(frames, rows, material.judged, losses, rows.kept)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return ntp_loss(
            rollout, optimize_task_loss_prediction=self.options.optimize_task_loss_prediction
        )
