"""Who judges what a gaze has kept of its frames.

- `canvas`: mean |canvas - frame|, in [0, 1]; closed form.
- `video-mae`: the losses of a VideoMAE, in the units that its checkpoint names.
- `efficientnet`: how different the canvas looks from the frame to EfficientNet-Lite1, which
  no selector was trained on.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import Reconstruction, reconstruct
from autogaze.tasks.base import Task

CANVAS, VIDEO_MAE, EFFICIENTNET = "canvas", "video-mae", "efficientnet"


@dataclass(frozen=True, eq=False)
class Shown:
    """Clips that gazes are judged on.

    Attributes:
        frames: (B, T, 3, S, S) RGB in [0, 1].
        judged: (B, J) numbers of the frames that networks judge.
    """

    frames: Float[Tensor, "B T 3 S S"]
    judged: Int[Tensor, "B J"]

    @classmethod
    def of(
        cls, frames: Float[Tensor, "B T 3 S S"], every: int = 1, starts: Sequence[int] = ()
    ) -> "Shown":
        """Every so-many-th frame is judged.

        Args:
            every: 1 for all frames.
            starts: for every clip a number that says where it begins, modulo `every`.
        """
        B, T = frames.shape[:2]
        first = torch.tensor(starts or [0] * B) % every
        return cls(frames, first[:, None] + every * torch.arange(T // every))

    @property
    def all_are_judged(self) -> bool:
        return self.judged.shape[1] == self.frames.shape[1]

    def pick(self, pictures: Float[Tensor, "B T 3 S S"]) -> Float[Tensor, "B J 3 S S"]:
        """The judged ones."""
        if self.all_are_judged:
            return pictures
        judged = self.judged.to(pictures.device)
        return pictures[torch.arange(len(judged), device=pictures.device)[:, None], judged]


@dataclass(frozen=True, eq=False)
class Trial:
    """Gazes at some clips, to be judged."""

    shown: Shown
    gaze: Gaze

    @cached_property
    def canvas(self) -> Reconstruction:
        """What the gazed patches alone draw."""
        return reconstruct(self.shown.frames, self.gaze)


class Judge(ABC):
    """Gives frames losses.

    Attributes:
        name: in figures.
        unit: what a loss is, in one line.
    """

    name: str
    unit: str

    @abstractmethod
    def losses(self, trial: Trial) -> Float[Tensor, "B J"]:
        """Of every judged frame; the less, the better it was kept."""


class CanvasJudge(Judge):
    """How far the canvas is from the frame, in pixel values; judges all frames."""

    name = CANVAS
    unit = "mean |canvas - frame| of pixel values in [0, 1]"

    def losses(self, trial: Trial) -> Float[Tensor, "B T"]:
        return trial.canvas.losses


class TaskJudge(Judge):
    """A trained reconstruction, by the losses that it was trained with.

    Args:
        task: judges frames.
        name: in figures.
        unit: what its losses are.
    """

    def __init__(self, task: Task, name: str, unit: str) -> None:
        self.task = task.eval()
        self.name = name
        self.unit = unit

    def losses(self, trial: Trial) -> Float[Tensor, "B J"]:
        frames, gaze, judged = trial.shown.frames, trial.gaze, trial.shown.judged.tolist()
        if trial.shown.all_are_judged:
            return self.task(frames, gaze, judged[0]).losses
        clips = zip(frames, gaze, judged, strict=True)
        return torch.cat([self.task(clip[None], own, some).losses for clip, own, some in clips])
