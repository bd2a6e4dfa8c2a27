"""Recipes: where an algorithm's gazes come from, and what it makes of them.

A new algorithm is a file here, an entry in `RECIPES` and a config in `configs/algorithm`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.algorithms.dummy import dummy_loss
from autogaze.algorithms.grpo import grpo_loss
from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.clips import frame_caps
from autogaze.datasets.clip import GazeLabels
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import draw_settings
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.tasks.base import Task
from autogaze.training.config import AlgorithmOptions
from autogaze.training.loader import Moment, PlacedBatch
from autogaze.training.rollouts import GazeRows, Lesson, at_last_gazes, random_gaze, sample_groups

# What the trainer asks of an algorithm.


@dataclass(frozen=True)
class Material:
    """What a lesson is made of.

    Attributes:
        model: who gazes.
        task: who judges.
        batch: the clips.
        frames: (B, T, 3, S, S) RGB of them, on the device.
        judged: numbers of the frames that the task judges.
        moment: what all that is random follows from.
    """

    model: AutoGaze
    task: Task
    batch: PlacedBatch
    frames: UInt8[Tensor, "B T 3 S S"]
    judged: tuple[int, ...]
    moment: Moment

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]


class Recipe(ABC):
    """Makes lessons of clips, and losses of lessons.

    Attributes:
        name: of the algorithm.
        teaches: whether a selector learns anything from it.
        needs_labels: whether clips must have gaze labels.
        samples: whether gazes are sampled from the model, and rewarded.
    """

    name: str
    teaches: bool = True
    needs_labels: bool = False
    samples: bool = False

    def __init__(self, options: AlgorithmOptions) -> None:
        self.options = options

    def lesson(
        self,
        model: AutoGaze,
        task: Task,
        batch: PlacedBatch,
        moment: Moment,
        device: torch.device,
    ) -> Lesson:
        """Gazes at the clips, and what they are worth; no gradients."""
        frames = batch.clips.frames.to(device, non_blocking=True)
        judged = judged_frames(task, frames.shape[1], moment)
        return self.teach(Material(model, task, batch, frames, judged, moment))

    @abstractmethod
    def teach(self, material: Material) -> Lesson:
        """The lesson: what an algorithm has to say."""

    @abstractmethod
    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        """What training minimises the mean of, a row."""


def judged_frames(task: Task, num_frames: int, moment: Moment) -> tuple[int, ...]:
    """Frames that the task judges, the same for a whole batch; all of them in validation."""
    if not moment.training:
        return tuple(range(num_frames))
    return task.draw_frames(num_frames, moment.generator("judged"))


# NTP: the gazes are labels, and what they are worth was measured when they were made.


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


# GRPO: the selector gazes several times at every clip and learns which went better.


class GRPORecipe(Recipe):
    """Group-relative policy optimisation (`autogaze.algorithms.grpo`)."""

    name = "grpo"
    samples = True

    def teach(self, material: Material) -> Lesson:
        rgb = material.frames.float() / 255
        rows = sample_groups(
            material.model,
            normalise(rgb),
            material.batch.places,
            self.options.group_size,
            material.moment,
        )
        reward = self._reward(material.task, rgb, rows, material.judged)
        losses, known = at_last_gazes(rows, material.judged, -reward)
        return Lesson(material.frames, rows, material.judged, losses, known, reward)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        if lesson.reward is None:
            raise TrainingError("GRPO learns from rewards, and this lesson has none")
        return grpo_loss(
            rollout,
            lesson.reward,
            [lesson.rows.ends(frame) for frame in lesson.judged],
            group_size=self.options.group_size,
            discount_factor=self.options.discount_factor,
            optimize_task_loss_prediction=self.options.optimize_task_loss_prediction,
        )

    def _reward(
        self,
        task: Task,
        rgb: Float[Tensor, "B T 3 S S"],
        rows: GazeRows,
        judged: tuple[int, ...],
    ) -> Float[Tensor, "R F"]:
        """Of every row; repetition by repetition, so that frames are held only once."""
        B = len(rgb)
        parts = [
            task(rgb, rows.gaze(slice(g * B, (g + 1) * B)), judged).reward
            for g in range(self.options.group_size)
        ]
        return torch.cat(parts)


# Dummy: random gazes, for training a judge that shall know gazes of all kinds.


class DummyRecipe(Recipe):
    """As many random patches as the model's config would let the model take."""

    name = "dummy"
    teaches = False

    def teach(self, material: Material) -> Lesson:
        gaze = drawn_gaze(
            material.model.config,
            material.batch.places,
            material.num_frames,
            material.moment,
            scale_alpha=self.options.scale_alpha,
        )
        rows = GazeRows.of_gaze(gaze.to(material.frames.device))
        return Lesson(material.frames, rows, material.judged)

    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        return dummy_loss(rollout)


def drawn_gaze(
    config: AutoGazeConfig,
    places: tuple[int, ...],
    num_frames: int,
    moment: Moment,
    *,
    scale_alpha: float | None = None,
) -> Gaze:
    """Random patches, as many as the config draws, for clips at these places of a batch.

    Args:
        scale_alpha: see `AlgorithmOptions`.

    Raises:
        TrainingError: lengths that only a selector could choose.
    """
    pyramid = config.pyramid
    generators = [moment.generator("random gaze", place) for place in places]
    lengths: list[list[int]] = []
    for generator in generators:
        drawn = draw_settings(config, num_frames, training=moment.training, generator=generator)
        if drawn.ratio is None:
            raise TrainingError(
                "algorithm dummy gazes at random and cannot stop by loss: "
                "model.gazing_ratio_each_frame_config must be uniform or dirichlet, not self"
            )
        lengths.append(frame_caps(drawn.ratio, num_frames, pyramid.num_patches))
    weights = None
    if scale_alpha is not None:
        weights = torch.stack(
            [scale_weights(pyramid, scale_alpha, generator) for generator in generators]
        )
    return random_gaze(pyramid, torch.tensor(lengths), generators, weights)


def scale_weights(
    pyramid: PatchPyramid, alpha: float, generator: torch.Generator
) -> Float[Tensor, " V"]:
    """How likely every patch is, where the scales' shares are drawn from Dirichlet(alpha).

    A selector begins with the few coarse patches; evenly drawn ones are nearly all fine.
    A judge that is to know both must have seen both.
    """
    alphas = torch.full((len(pyramid.scales),), alpha)
    shares = torch._standard_gamma(alphas, generator=generator)  # Dirichlet, but for the sum
    cells = torch.tensor(pyramid.cells)
    return (shares / shares.sum() / cells)[pyramid.levels].clamp(min=1e-6)


RECIPES: dict[str, type[Recipe]] = {"ntp": NTPRecipe, "grpo": GRPORecipe, "dummy": DummyRecipe}
"""What `algorithm.name` can be."""

__all__ = ["RECIPES", "Recipe"]
