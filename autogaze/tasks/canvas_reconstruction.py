"""Canvas reconstruction as a task: closed form, no weights, nothing to train."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.reconstruction.canvas import reconstruct
from autogaze.tasks.base import Task, TaskOutput


class CanvasReconstruction(Task):
    """Loss of a frame: mean |canvas - frame|, in [0, 1] (see `reconstruction.canvas`)."""

    metric = "canvas"

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        chosen = list(scored)
        last = max(chosen) + 1  # the canvas knows no later frames
        made = reconstruct(frames[:, :last], gaze.frames(0, last))
        return TaskOutput(tuple(chosen), made.losses[:, chosen], made.frames[:, chosen])
