"""A task: frames and a gaze in, how well the gaze served them out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid


@dataclass(frozen=True)
class Metric:
    """Something measured in every judged frame, of which validation logs the mean."""

    name: str
    values: Float[Tensor, "B F"]


@dataclass(frozen=True)
class TaskOutput:
    """How F frames of B clips were served.

    Attributes:
        frames: the frames that were judged.
        losses: (B, F) their losses, with a graph where the task has parameters.
        reconstruction: (B, F, 3, S, S) pictures in [0, 1], for tasks that make any.
        terms: (name, (B, F)) for every term that `losses` is a weighted sum of.
    """

    frames: tuple[int, ...]
    losses: Float[Tensor, "B F"]
    reconstruction: Float[Tensor, "B F 3 S S"] | None = None
    terms: tuple[tuple[str, Float[Tensor, "B F"]], ...] = ()

    @property
    def loss(self) -> Float[Tensor, " B"]:
        """What training the task itself minimises, a clip."""
        return self.losses.mean(1)

    @property
    def reward(self) -> Float[Tensor, "B F"]:
        """What a selector is rewarded with at every judged frame."""
        return -self.losses.detach()

    def metrics(self) -> tuple[Metric, ...]:
        """The loss and its terms, without a graph."""
        named = (("loss", self.losses), *self.terms)
        return tuple(Metric(name, values.detach()) for name, values in named)


class Task(nn.Module):
    """Judges gazes.

    Args:
        pyramid: the patches that gazes must be made of.
        recon_sample_rate: share of a clip's frames that is judged in a training step, in
            (0, 1]; at least one frame is.

    Attributes:
        metric: name of the unit that losses are in.
    """

    metric: str = ""

    def __init__(self, pyramid: PatchPyramid, recon_sample_rate: float = 1.0) -> None:
        super().__init__()
        if not 0 < recon_sample_rate <= 1:
            raise TrainingError(f"recon_sample_rate must lie in (0, 1], got {recon_sample_rate}")
        self.pyramid = pyramid
        self.recon_sample_rate = recon_sample_rate

    def draw_frames(self, num_frames: int, generator: torch.Generator) -> tuple[int, ...]:
        """Frames to be judged in a step, ascending."""
        count = max(1, round(self.recon_sample_rate * num_frames))
        return tuple(sorted(torch.randperm(num_frames, generator=generator)[:count].tolist()))

    def forward(
        self, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, judged: Sequence[int]
    ) -> TaskOutput:
        """Judge a gaze.

        Args:
            frames: RGB in [0, 1], of the pyramid's side.
            gaze: of these frames.
            judged: numbers of the frames to judge.
        """
        raise NotImplementedError

    def check_fit(self, frames: Tensor, gaze: Gaze) -> None:
        """Raise TrainingError where frames, gaze and task disagree."""
        if gaze.pyramid != self.pyramid:
            raise TrainingError(
                f"the gaze was made for {gaze.pyramid}, this task judges {self.pyramid}; "
                "task.scales and model.scales must be the same"
            )
        wanted = (gaze.num_clips, gaze.num_frames, 3, self.pyramid.side, self.pyramid.side)
        if tuple(frames.shape) != wanted:
            raise TrainingError(f"expected frames {wanted}, got {tuple(frames.shape)}")
