"""Jobs that can be stopped within a frame of a chunk, from another thread."""

import threading

import torch

from autogaze.clips import Clips, Ratio, as_clips
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import precision_of
from autogaze.selectors.base import Selector


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The job was stopped."""


class Stop:
    """A flag that stops a job: set in one thread, checked in another."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Stop the job as soon as it checks."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if the job is to stop."""
        if self.is_set:
            raise Cancelled


class StoppableSelector:
    """A selector that checks a flag before every frame; it chooses what the selector chooses.

    Many tiles of a chunk take seconds at once. Fed frame by frame, which gives the same gaze, they
    can be stopped between two frames.
    """

    def __init__(self, selector: Selector, stop: Stop) -> None:
        self._selector, self._stop = selector, stop

    @property
    def name(self) -> str:
        return self._selector.name

    @property
    def pyramid(self) -> PatchPyramid:
        return self._selector.pyramid

    @property
    def metric(self) -> str | None:
        return self._selector.metric

    @property
    def needs_motion(self) -> bool:
        return self._selector.needs_motion

    @property
    def device(self) -> torch.device | None:
        return self._selector.device

    @property
    def dtype(self) -> torch.dtype:
        return precision_of(self._selector)

    @property
    def cpu_batch(self) -> int | None:
        return self._selector.cpu_batch

    def settings(
        self, ratio: Ratio | None, loss: float | None
    ) -> tuple[Ratio | None, float | None]:
        return self._selector.settings(ratio, loss)

    def select(
        self,
        clips: Clips | torch.Tensor,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze:
        """As of the selector; raises `Cancelled`."""
        clips = as_clips(clips)
        self._selector.check(clips)
        place = clips.frames.device
        clips = self._selector.placed(clips)
        stream = self._selector.stream(ratio=ratio, loss=loss, generator=generator)
        pieces = []
        for index in range(clips.num_frames):
            self._stop.check()
            pieces.append(stream.step(clips.frame(index)))
        last = stream.finish()
        return Gaze.cat_frames([*pieces, last] if last is not None else pieces).to(place)
