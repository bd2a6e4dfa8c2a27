"""Tasks written for the published package: `forward(inputs, gaze_outputs) -> dict`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.processing import normalise
from autogaze.tasks.base import Task, TaskOutput


def is_published(module: Any) -> bool:
    """Whether a module's `forward` takes `inputs` and `gaze_outputs`."""
    forward = getattr(module, "forward", None)
    names = list(inspect.signature(forward).parameters)[:2] if callable(forward) else []
    return isinstance(module, nn.Module) and names == ["inputs", "gaze_outputs"]


class PublishedTask(Task):
    """A module of the published interface as a task.

    Its `inputs` are `video`, (B, T, 3, S, S) normalised as for the selector, and the clips' extra
    values; its `gaze_outputs` are the padded dict of `Gaze.padded`. Of what it returns are read

    - `loss`: one number, (B,) or (B, F). Needed where there is no `reward`.
    - `reward`: likewise; the negative loss by default.
    - `metrics`: figures by name, likewise, whose means validation logs.

    F values are of the last F frames of the clip; one per clip is credited to all its gazes. A
    single number counts for every clip of the batch alike.

    Args:
        module: with that interface.
        pyramid, recon_sample_rate: see `Task`; the latter is the module's own affair.
    """

    def __init__(
        self, module: nn.Module, pyramid: PatchPyramid, recon_sample_rate: float = 1.0
    ) -> None:
        super().__init__(pyramid, recon_sample_rate)
        self.module = module
        self.metric = type(module).__name__

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        B, T = frames.shape[:2]
        output = self.module({"video": normalise(frames), **(extra or {})}, gaze.padded())
        if not isinstance(output, Mapping) or not {"loss", "reward"} & output.keys():
            got = sorted(output) if isinstance(output, Mapping) else type(output).__name__
            raise TrainingError(
                f"{self.metric}.forward(inputs, gaze_outputs) must return a dict with a loss or a "
                f"reward, got {got}"
            )
        reward = self._per_frame("reward", output.get("reward"), B, T, frames)
        losses = self._per_frame("loss", output.get("loss"), B, T, frames)
        if losses is None:
            losses = -reward  # type: ignore[operator]  # one of the two is there
        F = max(losses.shape[1], 1 if reward is None else reward.shape[1])
        figures = {
            name: self._per_frame(name, value, B, T, frames)
            for name, value in (output.get("metrics") or {}).items()
        }
        return TaskOutput(
            tuple(range(T - F, T)),
            self._of_frames("loss", losses, F),
            terms={
                name: value.float().mean(1, keepdim=True).expand(-1, F)  # their means are logged
                for name, value in figures.items()
                if value is not None
            },
            own_reward=None if reward is None else self._of_frames("reward", reward, F),
        )

    def _of_frames(self, name: str, values: Float[Tensor, "B n"], F: int) -> Float[Tensor, "B F"]:
        """One value per clip for all of F frames; those of F frames as they are."""
        if values.shape[1] not in (1, F):
            raise TrainingError(
                f"{self.metric}: {name} is of {values.shape[1]} frames, and the other of loss and "
                f"reward of {F}"
            )
        return values.expand(-1, F)

    def _per_frame(
        self, name: str, value: Any, B: int, T: int, like: Tensor
    ) -> Float[Tensor, "B F"] | None:
        """A value of the dict, per clip and frame."""
        if value is None:
            return None
        values = torch.as_tensor(value, device=like.device)
        if values.ndim == 0:
            return values.expand(B, 1)
        if (
            len(values) != B
            or values.ndim > 2
            or (values.ndim == 2 and not 1 <= values.shape[1] <= T)
        ):
            raise TrainingError(
                f"{self.metric}: {name} must be one number, or of ({B},) clips or ({B}, 1 to {T}) "
                f"clips and frames, got {tuple(values.shape)}"
            )
        return values.reshape(B, -1)
