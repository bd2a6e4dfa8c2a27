"""Which frames of a video make a clip."""

from dataclasses import dataclass

import torch

from autogaze.datasets.seeds import integer
from autogaze.errors import TrainingError


@dataclass(frozen=True)
class Window:
    """How clips are cut out of videos.

    Args:
        clip_len: frames of a clip.
        stride: of them, this many frames apart.
        random: where the clip starts is drawn anew in every epoch; else it starts at the
            first frame.
        every: a video gives all clips that lie side by side in it, not only the first.

    Raises:
        TrainingError: numbers below 1, or windows both random and side by side.
    """

    clip_len: int = 16
    stride: int = 1
    random: bool = False
    every: bool = False

    def __post_init__(self) -> None:
        for name in ("clip_len", "stride"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.random and self.every:
            raise TrainingError("windows either start anywhere or lie side by side, not both")

    @property
    def span(self) -> int:
        """Frames from the first of the clip to its last, both included."""
        return (self.clip_len - 1) * self.stride + 1

    def starts(self, num_frames: int) -> range:
        """First frames of the clips that lie side by side in a video, of one at least."""
        return range(0, max(1, num_frames - self.span + 1), self.clip_len * self.stride)

    def draw(self, num_frames: int, generator: torch.Generator) -> int:
        """Where a clip starts that may start anywhere in the video."""
        return integer(generator, max(1, num_frames - self.span + 1))
