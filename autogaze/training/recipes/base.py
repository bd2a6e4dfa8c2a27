"""What the trainer asks of an algorithm."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.algorithms.rollout import Rollout
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.tasks.base import Task
from autogaze.training.lesson import Lesson
from autogaze.training.loader import PlacedBatch
from autogaze.training.moment import Moment
from autogaze.training.options import AlgorithmOptions


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

    @abstractmethod
    def lesson(
        self,
        model: AutoGaze,
        task: Task,
        batch: PlacedBatch,
        moment: Moment,
        device: torch.device,
    ) -> Lesson:
        """Gazes at the clips, and what they are worth; no gradients."""

    @abstractmethod
    def loss(self, rollout: Rollout, lesson: Lesson) -> Float[Tensor, " R"]:
        """What training minimises the mean of, a row."""


def judged_frames(task: Task, num_frames: int, moment: Moment) -> tuple[int, ...]:
    """Frames that the task judges, the same for a whole batch; all of them in validation."""
    if not moment.training:
        return tuple(range(num_frames))
    return task.draw_frames(num_frames, moment.generator("judged"))
