"""NTP: the gazes are labels, and what they are worth was measured when they were made.

Or some are the model's own. Who only ever sees what good gazes leave behind does not know how
to go on from worse ones, such as its own are: it gazes again where it has gazed before. (So
imitation is done since DAgger: Ross, Gordon and Bagnell, 2011.)
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.datasets.clip import GazeLabels
from autogaze.labelling.canvas import CanvasSearcher
from autogaze.models.autogaze.processing import normalise
from autogaze.training.lesson import GazeRows, Lesson
from autogaze.training.recipes.base import Material, Recipe


class NTPRecipe(Recipe):
    """Next-token prediction (`autogaze.algorithms.ntp`)."""

    name = "ntp"
    needs_labels = True

    def teach(self, material: Material) -> Lesson:
        frames, clips = material.frames, material.batch.clips
        if self.options.own_gazes and material.moment.training and clips.labels:
            clips = replace(clips, labels=self._with_own(material))
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

    def _with_own(self, material: Material) -> tuple[GazeLabels, ...]:
        """The clips' labels, or what there is to say of gazes that the model makes instead."""
        labels = list(material.batch.clips.labels or ())
        drawn = [
            float(torch.rand(1, generator=material.moment.generator("own gazes", place)))
            for place in material.batch.places
        ]
        own = [n for n in range(len(labels)) if drawn[n] < self.options.own_gazes]
        if not own:
            return tuple(labels)
        frames = material.frames[own]
        caps = torch.tensor([[max(1, len(ids)) for ids in labels[number].ids] for number in own])
        video = normalise(frames.float() / 255)
        gaze = material.model.generate(video, caps=caps).to_gaze().to("cpu")
        searcher = CanvasSearcher(material.model.pyramid, self.options.own_softness)
        for number, clip, each in zip(own, frames.cpu(), gaze, strict=True):
            ids = each.ids.split(each.lengths[0].tolist())
            labels[number] = searcher.follow(clip, [part.tolist() for part in ids])
        return tuple(labels)

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
