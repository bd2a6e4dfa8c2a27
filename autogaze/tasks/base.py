"""Tasks: reconstruction losses of frames under a gaze, and the rewards that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.checks import describe_value, is_number
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid


@dataclass(frozen=True)
class TaskOutput:
    """Losses of F frames of B clips.

    Attributes:
        frames: numbers of the frames that were scored.
        losses: their losses, with a graph where the task has parameters.
        reconstruction: pictures in [0, 1], of tasks that make any.
        terms: the terms that `losses` is a weighted sum of, or other figures, by name; validation
            logs their means.
        own_reward: of the selector per scored frame, where it is not the negative loss.
        losses_to_predict: what the selector learns to predict, where it is not `losses`.
    """

    frames: tuple[int, ...]
    losses: Float[Tensor, "B F"]
    reconstruction: Float[Tensor, "B F 3 S S"] | None = None
    terms: Mapping[str, Float[Tensor, "B F"]] = field(default_factory=dict)
    own_reward: Float[Tensor, "B F"] | None = None
    losses_to_predict: Float[Tensor, "B F"] | None = None

    def __post_init__(self) -> None:
        wanted = (len(self.losses), len(self.frames))
        given = {
            name: getattr(self, name) for name in ("losses", "own_reward", "losses_to_predict")
        }
        for name, values in given.items():
            if values is not None and tuple(values.shape) != wanted:
                raise TrainingError(
                    f"a task's {name} must be of (clips, scored frames) = {wanted}, got "
                    f"{tuple(values.shape)}"
                )

    @property
    def loss(self) -> Float[Tensor, " B"]:
        """The loss per clip, which training of the task itself minimises."""
        return self.losses.mean(1)

    @property
    def reward(self) -> Float[Tensor, "B F"]:
        """The reward of the selector per scored frame: the task's own, or the negative loss."""
        return -self.losses.detach() if self.own_reward is None else self.own_reward.detach()

    @property
    def measured(self) -> Float[Tensor, "B F"]:
        """Without a graph, the losses that the selector learns to predict."""
        return (self.losses if self.losses_to_predict is None else self.losses_to_predict).detach()

    def metrics(self) -> dict[str, Float[Tensor, "B F"]]:
        """The loss and its terms by name, without a graph; validation logs their means."""
        own = {} if self.own_reward is None else {"reward": self.own_reward}
        every = {"loss": self.losses, **own, **self.terms}
        return {name: x.detach() for name, x in every.items()}


class Task(nn.Module):
    """A loss of frames under a gaze: what a selector is rewarded for; may have parameters.

    Args:
        pyramid: the patches that gazes must be made of.
        recon_sample_rate: share of a clip's frames that is scored in a training step, in
            (0, 1]; at least one frame is.

    Attributes:
        metric: name of the unit of the losses.
        frozen: attributes that hold frozen networks, which stay in evaluation mode (no dropout) while
            the task trains.
    """

    metric: str = ""
    frozen: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pyramid: PatchPyramid, recon_sample_rate: float = 1.0) -> None:
        super().__init__()
        if not (is_number(recon_sample_rate) and 0 < recon_sample_rate <= 1):
            raise TrainingError(
                f"recon_sample_rate must lie in (0, 1], got {describe_value(recon_sample_rate)}"
            )
        self.pyramid = pyramid
        self.recon_sample_rate = recon_sample_rate

    def train(self, mode: bool = True) -> "Task":
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        """Score a gaze.

        Args:
            frames: RGB in [0, 1], of the pyramid's side.
            gaze: of these frames.
            scored: numbers of the frames to score. A task may score others instead, such as the last
                one for the whole clip: `TaskOutput.frames` says which.
            extra: of these clips, as the dataset gives it; tensors are on the frames' device.
        """
        raise NotImplementedError

    def of_groups(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gazes: Sequence[Gaze],
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> list[TaskOutput]:
        """Score several gazes at the same clips, the groups of GRPO; all score the same frames."""
        return [self(frames, gaze, scored, extra) for gaze in gazes]

    def draw_frames(self, num_frames: int, generator: torch.Generator) -> tuple[int, ...]:
        """Numbers of the frames to score in a training step, drawn at random; ascending."""
        count = max(1, round(self.recon_sample_rate * num_frames))
        return tuple(sorted(torch.randperm(num_frames, generator=generator)[:count].tolist()))

    def check_fit(self, frames: Tensor, gaze: Gaze) -> None:
        """Raise TrainingError where frames, gaze and task disagree."""
        if gaze.pyramid != self.pyramid:
            raise TrainingError(
                f"the gaze was made for {gaze.pyramid}, this task scores {self.pyramid}; "
                "task.scales and model.scales must be the same"
            )
        wanted = (gaze.num_clips, gaze.num_frames, 3, self.pyramid.side, self.pyramid.side)
        if tuple(frames.shape) != wanted:
            raise TrainingError(f"expected frames {wanted}, got {tuple(frames.shape)}")
