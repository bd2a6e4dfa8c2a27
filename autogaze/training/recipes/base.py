"""What the trainer asks of an algorithm."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from autogaze.algorithms.rollout import Rollout
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.lesson import Lesson
from autogaze.training.loader import PlacedBatch
from autogaze.training.moment import Moment
from autogaze.training.options import AlgorithmOptions


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
