"""Reading a video of any length as chunks of clips, in constant memory.

Frames are decoded one by one into a chunk's tensor of tiles, in a thread that is one chunk ahead
of the consumer.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypedDict, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from autogaze.clips import Clips
from autogaze.errors import VideoError
from autogaze.source import Source, TileGrid
from autogaze.video.container import VideoInfo
from autogaze.video.motion import check_motion, motion_map
from autogaze.video.reader import Frame, Video
from autogaze.video.tiling import cut_frame, empty_tiles, plan_tiles, resize
from autogaze.video.timestamps import FrameRange

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class VideoChunk:
    """Consecutive frames, tiled.

    Args:
        clips: one clip per tile, uint8; with motion maps given a `motion_grid`.
        source: the tiling, and the time and number of every frame.
        pixels: (T, h, w, 3) the whole frames, scaled down, with `preview`.
    """

    clips: Clips
    source: Source
    pixels: UInt8[np.ndarray, "T h w 3"] | None = None


class VideoOptions(TypedDict, total=False):
    """Which frames of a video are looked at, and how they lie on tiles; see `ChunkReader`."""

    tiles: str
    max_tiles: int | None
    fps: float | None
    start: float | None
    end: float | None
    skip_corrupt: bool
    stream: int | None


class ChunkReader:
    """Iterates over the chunks of one video; every loop starts from the beginning.

    Args:
        path: a video or an image.
        side: pixels of a tile: the side of the selector's pyramid.
        chunk: frames per chunk; the last one may have fewer.
        motion_grid: cells along each side of a tile's motion map (side // patch size); None
            for no motion.
        preview: also return the whole frames, their longer side at most this.
        tiles: layout of frames on square tiles: "resize" to a whole number of them, "pad" the
            right and bottom ones, "one" tile for all, or "COLUMNSxROWS"; see `plan_tiles`.
        max_tiles: bound on tiles per frame; larger sources are resized to fit.
        fps: frames sampled per second; None for every frame.
        start, end: seconds from the start of the video.
        skip_corrupt: skip and count frames that cannot be decoded, instead of raising.
        stream: number of the video stream; None for the default one, see `Video`.

    Attributes:
        info: the video's size, rate and formats.
        range: of its frames, and their rate.
        seconds_decode: time the last loop spent decoding and converting colours.
        seconds_tile: time it spent resizing, tiling and mapping motion. Both pass in the
            reader's own thread.

    Raises:
        VideoError: see `Video` and `Video.frames`.
        GeometryError: see `plan_tiles`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        side: int = 224,
        chunk: int = 16,
        motion_grid: int | None = None,
        preview: int | None = None,
        tiles: str = "resize",
        max_tiles: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        skip_corrupt: bool = False,
        stream: int | None = None,
    ) -> None:
        if chunk < 1:
            raise VideoError(f"chunk must be at least 1 frame, got {chunk}")
        if preview is not None and preview < 1:
            raise VideoError(f"preview must be at least 1 pixel, got {preview}")
        self.range = FrameRange(start, end, fps=fps)
        self._video = Video(path, stream=stream)
        self.info: VideoInfo = self._video.info
        if motion_grid is not None:
            check_motion(self.info.codec, path)
        self.tiles: TileGrid = plan_tiles(
            self.info.width, self.info.height, side, tiles, max_tiles=max_tiles
        )
        self._chunk = chunk
        self._skip_corrupt = skip_corrupt
        self._motion_grid = motion_grid
        self._preview = preview
        self.seconds_decode = 0.0
        self.seconds_tile = 0.0

    @property
    def num_corrupt(self) -> int:
        """Frames that the last loop skipped."""
        return self._video.num_corrupt

    def __iter__(self) -> Iterator[VideoChunk]:
        return ahead(self._chunks())

    def _chunks(self) -> Generator[VideoChunk, None, None]:
        self.seconds_decode = self.seconds_tile = 0.0
        frames = self._timed(
            self._video.frames(
                start=self.range.start,
                end=self.range.end,
                fps=self.range.fps,
                skip_corrupt=self._skip_corrupt,
                motion=self._motion_grid is not None,
            )
        )
        following = next(frames, None)
        while following is not None:
            chunk, following = self._read(following, frames)
            yield chunk
            del chunk  # free its memory while the next one is read

    def _timed(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        while True:
            began = perf_counter()
            frame = next(frames, None)
            self.seconds_decode += perf_counter() - began
            if frame is None:
                return
            yield frame

    def _read(self, first: Frame, frames: Iterator[Frame]) -> tuple[VideoChunk, Frame | None]:
        """Tile the next chunk, which begins with `first`; also the frame behind it, if any."""
        cut = empty_tiles(self.tiles, self._chunk)
        previews = None
        motion = []
        seen: list[tuple[float, int]] = []
        following: Frame | None = first
        while (frame := following) is not None and len(seen) < self._chunk:
            began = perf_counter()
            cut_frame(frame.pixels, self.tiles, cut[:, len(seen)])
            if frame.motion is not None and self._motion_grid is not None:
                motion.append(motion_map(frame.motion, self.tiles, self._motion_grid))
            if self._preview is not None:
                small = _scaled_down(frame.pixels, self._preview)
                if previews is None:
                    previews = np.empty((self._chunk, *small.shape), dtype=np.uint8)
                previews[len(seen)] = small
            seen.append((frame.timestamp, frame.index))
            self.seconds_tile += perf_counter() - began
            following = next(frames, None)
        timestamps, indices = zip(*seen, strict=True)
        info = self.info
        source = Source(
            self.tiles,
            timestamps,
            indices,
            self._chunk,
            info.path,
            stream=None if info.by_default else info.stream,
            end=self._video.end if following is None else following.timestamp,
        )
        chunk = VideoChunk(
            Clips(
                cut[:, : len(seen)].contiguous(),
                torch.stack(motion, dim=1) if motion else None,  # tiles, T, g, g
            ),
            source,
            None if previews is None else previews[: len(seen)],
        )
        return chunk, following


def _scaled_down(pixels: UInt8[np.ndarray, "H W 3"], longest: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with its longer side at most `longest` pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(width, height))
    small = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return small.permute(1, 2, 0).numpy()


def ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """Prefetch one item of `items` in a thread; its errors are raised here.

    The thread ends with the consumer, also early or with an error, at the latest when the
    current item is made.
    """
    made: queue.SimpleQueue[tuple[Item | None, BaseException | None]] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stop = threading.Event()

    def produce() -> None:
        try:
            with closing(items):
                while wanted.acquire() and not stop.is_set():
                    made.put((next(items), None))
        except StopIteration:
            made.put((None, None))
        except BaseException as error:  # raised in the consumer
            made.put((None, error))

    thread = threading.Thread(target=produce, name="autogaze-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            wanted.release()
            yield item
            del item  # free its memory while waiting for the next one
    finally:
        stop.set()
        wanted.release()
        thread.join()
