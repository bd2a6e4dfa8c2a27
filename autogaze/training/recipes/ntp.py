"""NTP: the gazes are labels, and what they are worth was measured when they were made."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.datasets.clip import GazeLabels
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
        targets = _in_slots(rows, labels)
        if not all(label.losses for label in labels):
            return Lesson(frames, rows, material.judged, targets=targets)
        # Gazes of a row stand in the order of its slots, and so do their losses.
        flat = [loss for label in labels for frame in label.losses for loss in frame]
        losses = torch.zeros(rows.kept.shape, device=frames.device)
        losses[rows.kept] = torch.tensor(flat, device=frames.device)
        return Lesson(frames, rows, material.judged, losses, rows.kept, targets=targets)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return ntp_loss(
            rollout, optimize_task_loss_prediction=self.options.optimize_task_loss_prediction
        )


def _in_slots(rows: GazeRows, labels: Sequence[GazeLabels]) -> Float[Tensor, "R slots V"] | None:
    """The labels' targets where their gazes stand; a gaze whose label has none is its own."""
    known = [label.targets for label in labels]
    if not any(targets is not None for targets in known):
        return None
    V, device = rows.pyramid.num_patches, rows.ids.device
    placed = torch.zeros(*rows.kept.shape, V, device=device)
    for row, targets in enumerate(known):
        kept = rows.kept[row]
        if targets is None:
            placed[row, kept] = F.one_hot(rows.ids[row, kept], V).float()
        else:
            placed[row, kept] = targets.to(device)
    return placed
