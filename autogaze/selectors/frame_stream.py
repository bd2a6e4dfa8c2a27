"""What streams of selectors have in common: counting frames, and putting ids into a gaze."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.clips import Clips, Ratio, as_clips, frame_cap
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.selectors.base import SelectionStream, Selector

S = TypeVar("S", bound=Selector)


class FrameStream(SelectionStream, Generic[S]):
    """Counts frames and caps; `step` takes every frame through `admit`."""

    def __init__(self, selector: S, ratio: Ratio | None) -> None:
        self.selector = selector
        self.pyramid = selector.pyramid
        self.ratio = ratio
        self.num_clips: int | None = None
        self.num_frames = 0
        self.finished = False

    def admit(self, frame: Clips | Tensor) -> Clips:
        """Count the next frame in.

        Raises:
            SelectorError: not one frame of this selector's size and of as many clips
                as before, or a frame after `finish`.
        """
        if self.finished:
            raise SelectorError("this stream is finished; start another with selector.stream()")
        clips = as_clips(frame)
        self.selector.check(clips)
        if clips.num_frames != 1:
            raise SelectorError(f"a stream takes one frame at a time, got {clips.num_frames}")
        if self.num_clips is not None and clips.num_clips != self.num_clips:
            raise SelectorError(
                f"this stream was started with {self.num_clips} clips, got {clips.num_clips}"
            )
        self.num_clips = clips.num_clips
        self.num_frames += 1
        return clips

    def cap(self, frame: int) -> int:
        """Patches that a frame may take."""
        return frame_cap(self.ratio, frame, self.pyramid.num_patches)


class PromptStream(FrameStream[S]):
    """A stream that decides every frame as it comes."""

    @abstractmethod
    def choose(self, frame: Clips, cap: int) -> Gaze:
        """Gaze at one frame, at no more than `cap` patches."""

    def step(self, frame: Clips | Tensor) -> Gaze:
        """Gaze at the next frame."""
        clips = self.admit(frame)
        return self.choose(clips, self.cap(self.num_frames - 1))

    def finish(self) -> Gaze | None:
        """Nothing is ever left open."""
        self.finished = True
        return None


def frame_gaze(
    pyramid: PatchPyramid,
    ids: Sequence[Int[Tensor, " _"]],
    losses: Float[Tensor, "B 1"] | None = None,
    metric: str | None = None,
) -> Gaze:
    """A gaze at one frame from every clip's ids, in the order they were chosen."""
    lengths = torch.tensor([[len(chosen)] for chosen in ids])
    return Gaze(pyramid, torch.cat(list(ids)), lengths, losses=losses, metric=metric)


def no_frames(pyramid: PatchPyramid, num_clips: int, device: torch.device) -> Gaze:
    """A gaze at no frame at all: what a stream returns while it still looks ahead."""
    ids = torch.empty(0, dtype=torch.long, device=device)
    return Gaze(pyramid, ids, torch.empty(num_clips, 0, dtype=torch.long))
