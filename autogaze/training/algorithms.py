"""Algorithms: the rollouts of a batch of clips, and the loss of scored rollouts.

A new algorithm of the package is a class here, an entry in `ALGORITHMS` and a file in
`configs/algorithm`; one from outside needs none of them (`docs/plugins.md`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from autogaze.algorithms.dummy import dummy_loss
from autogaze.algorithms.grpo import grpo_loss
from autogaze.algorithms.ntp import ntp_loss
from autogaze.algorithms.rollout import Rollout
from autogaze.datasets.clip import ClipBatch, GazeLabels
from autogaze.errors import TrainingError
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.auxiliary import on_policy_labels
from autogaze.training.config import AlgorithmOptions, read
from autogaze.training.loader import StepContext
from autogaze.training.plugins import find
from autogaze.training.rollouts import (
    GazeRows,
    RolloutBatch,
    at_last_gazes,
    drawn_gaze,
    reconstructed_frames,
    sample_groups,
)
from autogaze.utils.device import sent


class Algorithm(ABC):
    """Base class of training algorithms: rollouts, and their loss.

    Attributes:
        name: value of `algorithm.name`.
        kind_of_options: class of its options; a subclass of `AlgorithmOptions` that is a frozen
            dataclass adds some.
        trains_selector: whether its loss depends on the selector.
        needs_labels: whether clips must have gaze labels.
        samples: whether gazes are sampled from the model, and rewarded.
    """

    name: str
    kind_of_options: type[AlgorithmOptions] = AlgorithmOptions
    trains_selector: bool = True
    needs_labels: bool = False
    samples: bool = False

    def __init__(self, options: AlgorithmOptions) -> None:
        self.options = options

    @abstractmethod
    def rollouts(
        self, model: AutoGaze, task: Task, batch: ClipBatch, context: StepContext
    ) -> RolloutBatch:
        """Gazes at the clips with their rewards or labels; called without gradients.

        Args:
            batch: with its frames and extra tensors on the model's device.
        """

    @abstractmethod
    def loss(self, rollout: Rollout, batch: RolloutBatch) -> Float[Tensor, " R"]:
        """Loss of every row; training minimises the mean."""


class NTP(Algorithm):
    """Next-token prediction on gaze labels (`autogaze.algorithms.ntp`)."""

    name = "ntp"
    needs_labels = True

    def rollouts(
        self, model: AutoGaze, task: Task, batch: ClipBatch, context: StepContext
    ) -> RolloutBatch:
        frames = batch.frames
        if self.options.on_policy and context.training and batch.labels:
            labels = on_policy_labels(
                model, frames, batch.labels, batch.indices, context, self.options
            )
            batch = replace(batch, labels=labels)
        rows = GazeRows.of_gaze(batch.gaze(model.pyramid), frames.device)
        reconstructed = reconstructed_frames(task, frames.shape[1], context)
        labels = batch.labels or ()
        targets = _targets_of(labels, rows)
        if not all(label.losses for label in labels):
            return RolloutBatch(frames, rows, reconstructed, targets=targets, extra=batch.extra)
        # Gazes of a row are in the order of its slots, and so are their losses.
        flat = [frame for label in labels for frame in label.losses]
        known = np.fromiter(chain.from_iterable(flat), np.float32, sum(map(len, flat)))
        losses = torch.zeros(rows.kept.shape)
        losses[rows.host_kept] = torch.from_numpy(known)
        losses = sent(losses, frames.device)
        return RolloutBatch(
            frames, rows, reconstructed, losses, rows.kept, targets=targets, extra=batch.extra
        )

    def loss(self, rollout: Rollout, batch: RolloutBatch) -> Float[Tensor, " R"]:
        return ntp_loss(
            rollout, optimize_task_loss_prediction=self.options.optimize_task_loss_prediction
        )


def _targets_of(labels: Sequence[GazeLabels], rows: GazeRows) -> Float[Tensor, "R slots V"] | None:
    """Soft targets at the slots of their gazes; one-hot for labels that have none."""
    if all(label.targets is None for label in labels):
        return None
    V, device = rows.pyramid.num_patches, rows.ids.device
    places = sent(rows.host_kept.flatten().nonzero()[:, 0], device)
    counts = [sum(map(len, label.ids)) for label in labels]
    ids = rows.ids.flatten()[places].split(counts)
    # Of every gaze, row by row.
    soft = [
        F.one_hot(chosen, V).float() if label.targets is None else label.targets.to(device)
        for label, chosen in zip(labels, ids, strict=True)
    ]
    targets = torch.zeros(rows.kept.numel(), V, device=device)
    return targets.index_copy_(0, places, torch.cat(soft)).view(*rows.kept.shape, V)


class GRPO(Algorithm):
    """Group-relative policy optimisation (`autogaze.algorithms.grpo`)."""

    name = "grpo"
    samples = True

    def rollouts(
        self, model: AutoGaze, task: Task, batch: ClipBatch, context: StepContext
    ) -> RolloutBatch:
        frames, G = batch.frames, self.options.group_size
        rgb, (B, T) = frames.float() / 255, frames.shape[:2]
        # Sample: G gazes of every clip, (G * B) rows.
        rows = sample_groups(model, normalise(rgb), batch.indices, G, context)
        # Reward: by default minus the loss of each frame, repetition by repetition so that
        # frames need not be repeated.
        reconstructed = reconstructed_frames(task, T, context)
        groups = [rows.to_gaze(slice(g * B, (g + 1) * B)) for g in range(G)]
        outputs = task.of_groups(rgb, groups, reconstructed, batch.extra)
        reconstructed = outputs[0].frames  # a task may score others than it was asked for
        reward = torch.cat([output.reward for output in outputs])  # (R, F)
        measured = torch.cat([output.measured for output in outputs])
        losses, known = at_last_gazes(rows, reconstructed, measured)
        temperature = context.temperature if self.options.policy == "sampled" else None
        return RolloutBatch(
            frames, rows, reconstructed, losses, known, reward, None, temperature, batch.extra
        )

    def loss(self, rollout: Rollout, batch: RolloutBatch) -> Float[Tensor, " R"]:
        if batch.reward is None:
            raise TrainingError("GRPO needs rewards, and this rollout batch has none")
        return grpo_loss(
            rollout,
            batch.reward,
            [batch.rows.ends(frame) for frame in batch.reconstructed],
            group_size=self.options.group_size,
            discount_factor=self.options.discount_factor,
            optimize_task_loss_prediction=self.options.optimize_task_loss_prediction,
        )


class Dummy(Algorithm):
    """Random gazes, as many patches as the model's config draws: for training the task."""

    name = "dummy"
    trains_selector = False

    def rollouts(
        self, model: AutoGaze, task: Task, batch: ClipBatch, context: StepContext
    ) -> RolloutBatch:
        frames = batch.frames
        gaze = drawn_gaze(model.config, batch.indices, T := frames.shape[1], context)
        rows = GazeRows.of_gaze(gaze, frames.device)
        reconstructed = reconstructed_frames(task, T, context)
        return RolloutBatch(frames, rows, reconstructed, extra=batch.extra)

    def loss(self, rollout: Rollout, batch: RolloutBatch) -> Float[Tensor, " R"]:
        return dummy_loss(rollout)


ALGORITHMS: dict[str, type[Algorithm]] = {"ntp": NTP, "grpo": GRPO, "dummy": Dummy}
"""What `algorithm.name` can be."""


def read_algorithm(options: Mapping[str, Any]) -> Algorithm:
    """The algorithm that the options describe.

    Raises:
        TrainingError: a name or option that does not exist, or what is no `Algorithm`.
    """
    kind, options = find("algorithm", options, ALGORITHMS, default=NTP.name)
    if not (isinstance(kind, type) and issubclass(kind, Algorithm)):
        raise TrainingError(f"algorithm: {kind!r} is no autogaze.training.algorithms.Algorithm")
    named = {"name": getattr(kind, "name", kind.__name__), **options}
    return kind(read(kind.kind_of_options, named, "algorithm"))
