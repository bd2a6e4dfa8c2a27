"""What every rendering promises: shown chunk after chunk, complete or not there at all."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import UInt8

from autogaze.pipeline import GazedChunk
from autogaze.rendering.painter import display_size
from autogaze.utils.files import check_writable
from autogaze.video.writer import VideoWriter

RenderingT = TypeVar("RenderingT", bound="Rendering")


class Rendering(ABC):
    """A picture or video of a gaze, written to `path` when its `with` block succeeds.

    Attributes:
        needs_canvas: whether chunks must carry their canvas reconstruction.

    Raises:
        OutputError: on entering, if `path` cannot be written; later, if the disk is full.
    """

    needs_canvas: ClassVar[bool] = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stack = ExitStack()

    def __enter__(self: RenderingT) -> RenderingT:
        check_writable(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self.finish()

    @abstractmethod
    def add(self, chunk: GazedChunk) -> None:
        """Show the next chunk of the video."""

    def finish(self) -> None:
        """Write what could only be written at the end."""
        return


class VideoRendering(Rendering):
    """A rendering that is a video, one frame written for every frame shown.

    Args:
        fps: frames a second; frames keep the times at which the source shows them,
            counted from the first one, so this only says how long the last one stays.
        longest: bound on its longer side in pixels.
        shortest: the longer side that small sources are enlarged to, so as to be legible.
    """

    def __init__(
        self, path: str | Path, fps: float, *, longest: int = 1280, shortest: int = 640
    ) -> None:
        super().__init__(path)
        self.fps, self.longest, self.shortest = fps, longest, shortest
        self._writer: VideoWriter | None = None
        self._first, self._last = 0.0, -math.inf

    def add(self, chunk: GazedChunk) -> None:
        if self._writer is None:
            self.size = display_size(chunk.source.tiles, self.longest, self.shortest)
            self.prepare(chunk)
            self._first = chunk.source.timestamps[0]
        for frame, timestamp in zip(self.draw(chunk), chunk.source.timestamps, strict=True):
            if self._writer is None:
                height, width = frame.shape[:2]
                writer = VideoWriter(self.path, self.fps, width, height)
                self._writer = self._stack.enter_context(writer)
            # Broken files date several frames alike: those follow at the usual rate.
            later = timestamp > self._last
            self._writer.write(frame, timestamp - self._first if later else None)
            self._last = max(self._last, timestamp)

    def prepare(self, chunk: GazedChunk) -> None:
        """Work out what stays the same for the whole video."""
        return

    @abstractmethod
    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The pictures of a chunk's frames, one after the other."""
