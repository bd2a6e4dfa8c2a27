"""Base classes of renderings, which are fed chunk by chunk and written atomically."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, UInt8

from autogaze.pipeline import GazedChunk
from autogaze.rendering.painter import (
    PANEL,
    PatchMap,
    display_size,
    resized,
    seen_at_scales,
    stitched,
)
from autogaze.utils.files import check_writable
from autogaze.video.writer import VideoWriter

RenderingT = TypeVar("RenderingT", bound="Rendering")


class Rendering(ABC):
    """An image or video of a gaze, written to `path` when its `with` block succeeds.

    Raises:
        OutputError: on entering, if `path` cannot be written; later, if the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stack = ExitStack()

    def __enter__(self: RenderingT) -> RenderingT:
        check_writable(self.path)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self.finish()

    @abstractmethod
    def add(self, chunk: GazedChunk) -> None:
        """Draw the next chunk of the video."""

    def finish(self) -> None:
        """Write what is complete only at the end."""
        return


class VideoRendering(Rendering):
    """A rendering that is a video of one frame per frame of the source.

    Args:
        fps: nominal frames per second; frames keep the source's timestamps relative to the first
            one, and the last one its duration.
        longest: bound on its longer side in pixels.
        shortest: the longer side that small sources are enlarged to, for legible captions.
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
        times = chunk.source.timestamps
        ends = [*times[1:], chunk.source.end]
        for frame, timestamp, end in zip(self.draw(chunk), times, ends, strict=True):
            if self._writer is None:
                height, width = frame.shape[:2]
                writer = VideoWriter(self.path, self.fps, width, height)
                self._writer = self._stack.enter_context(writer)
            # Frames with equal timestamps, of broken files, follow at the usual rate.
            later = timestamp > self._last
            duration = None if end is None or end <= timestamp else end - timestamp
            self._writer.write(frame, timestamp - self._first if later else None, duration)
            self._last = max(self._last, timestamp)

    def prepare(self, chunk: GazedChunk) -> None:
        """Prepare what is the same for the whole video, from its first chunk."""
        return

    @abstractmethod
    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The images of a chunk's frames, in order."""


def chosen_patches(chunk: GazedChunk, frame: int) -> list[Bool[np.ndarray, " _"]]:
    """For each scale, which patches of one frame were chosen, tile by tile."""
    return [mask[:, frame].reshape(-1).cpu().numpy() for mask in chunk.gaze.masks()]


def frame_picture(
    chunk: GazedChunk, frame: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame of the source, resized to (width, height)."""
    if chunk.pixels is not None:
        return resized(chunk.pixels[frame], size)
    return stitched(chunk.frames[:, frame], chunk.source.tiles, size)


def scale_pictures(
    chunk: GazedChunk, frame: int, maps: Sequence[PatchMap], size: tuple[int, int]
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """For each scale, the chosen patches of one frame at the scale's resolution, resized to (width, height).

    Args:
        maps: of the patches on a picture of that size.
    """
    resampled = seen_at_scales(
        chunk.frames[:, frame], chunk.gaze.mask[:, frame], chunk.gaze.pyramid
    )
    for tiles, chosen, where in zip(resampled, chosen_patches(chunk, frame), maps, strict=True):
        seen = stitched(tiles, chunk.source.tiles, size)
        yield np.where(where.pixels(chosen)[..., None], seen, np.array(PANEL, np.uint8))


def video_name(chunk: GazedChunk) -> str:
    """Default title: the video's file name; what is not UTF-8 in it is escaped."""
    name = Path(chunk.source.path).name if chunk.source.path else "video"
    return name.encode(errors="backslashreplace").decode()
