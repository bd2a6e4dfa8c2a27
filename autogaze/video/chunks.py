"""Reading a video of any length as chunks of clips, in constant memory.

Frames are decoded one by one into a chunk's tensor of tiles, in a thread that is one chunk ahead
of the consumer, or part of one where a chunk is large: at 4K it takes 413 MiB, so that nothing but
one frame is decoded ahead.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import TypedDict, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.clips import Clips
from autogaze.errors import VideoError
from autogaze.source import Source, TileGrid
from autogaze.video.decoders import DecoderName
from autogaze.video.frames import VideoInfo
from autogaze.video.motion import check_motion, motion_map
from autogaze.video.reader import Frame, Video
from autogaze.video.tiling import cut_frame, empty_tiles, plan_tiles, resize
from autogaze.video.timestamps import FrameRange

Item = TypeVar("Item")

MAX_TILES_MADE = 2**28 + 2**27
"""Bytes of tiles of which the next chunk's are made while the consumer has the one before, with it.

For a GPU the whole next chunk is made: its machine has the memory, and waiting for frames costs more.
"""


MAX_PINNED = 2**30
"""Bytes of a chunk's tiles in page-locked memory at most: it is taken whole, however short the video is."""


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
    prefetch: bool
    decoder: DecoderName


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
        prefetch: read ahead in a thread of the reader's own. Without it one thread does all: for
            programs that keep every core busy anyway, as `autogaze corpus` does.
        decoder: "auto", "pyav" or "torchcodec", see `Video`.
        device: where the frames go; a GPU may decode them.

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
        prefetch: bool = True,
        decoder: DecoderName = "auto",
        device: torch.device | None = None,
    ) -> None:
        if chunk < 1:
            raise VideoError(f"chunk must be at least 1 frame, got {chunk}")
        if preview is not None and preview < 1:
            raise VideoError(f"preview must be at least 1 pixel, got {preview}")
        self.range = FrameRange(start, end, fps=fps)
        self._video = Video(path, stream=stream, decoder=decoder, device=device)
        self.info: VideoInfo = self._video.info
        if motion_grid is not None and decoder == "torchcodec":
            raise VideoError(
                f"{path}: torchcodec exports no motion vectors, which the selector needs; leave decoder "
                "at auto, or take pyav"
            )
        if motion_grid is not None:
            check_motion(self.info.codec, path)
        self.tiles: TileGrid = plan_tiles(
            self.info.width, self.info.height, side, tiles, max_tiles=max_tiles
        )
        self._chunk = chunk
        self._skip_corrupt = skip_corrupt
        self._motion_grid = motion_grid
        self._preview = preview
        self._prefetch = prefetch
        self._on_gpu = device is not None and device.type == "cuda"
        num_bytes = chunk * self.tiles.num_tiles * 3 * self.tiles.side**2
        # A chunk of one picture would be pinned for nothing.
        self._pinned = (
            self._on_gpu
            and torch.cuda.is_available()
            and not self.info.is_image
            and num_bytes <= MAX_PINNED
        )
        self.seconds_decode = 0.0
        self.seconds_tile = 0.0

    @property
    def num_corrupt(self) -> int:
        """Frames that the last loop skipped."""
        return self._video.num_corrupt

    @property
    def decoded_by(self) -> str:
        """What decoded the last frame: "pyav" or "torchcodec"."""
        return self._video.decoded_by

    def __iter__(self) -> Iterator[VideoChunk]:
        demand = Demand()
        if self._prefetch:
            return ahead(self._chunks(demand), demand)
        demand.end()  # each is asked for when it is made
        return self._chunks(demand)

    def _chunks(self, demand: "Demand") -> Generator[VideoChunk, None, None]:
        self.seconds_decode = self.seconds_tile = 0.0
        frames = self._decoded()
        if self._prefetch and self._on_gpu:
            # A GPU chooses faster than frames come: they are decoded while others are cut.
            frames = ahead(frames)
        with closing(frames):
            upcoming = _Upcoming(frames)
            for number in count():
                if upcoming.frame is None:
                    return
                # No name keeps a chunk while the next one is read.
                yield self._read(upcoming, partial(demand.wait, number))

    def _decoded(self) -> Generator[Frame, None, None]:
        """The frames, none of which is kept here while it is in use."""
        frames = self._video.frames(
            start=self.range.start,
            end=self.range.end,
            fps=self.range.fps,
            skip_corrupt=self._skip_corrupt,
            motion=self._motion_grid is not None,
        )
        while True:
            began = perf_counter()
            decoded = list(islice(frames, 1))
            self.seconds_decode += perf_counter() - began
            if not decoded:
                return
            yield decoded.pop()

    def _read(self, upcoming: "_Upcoming", until_wanted: Callable[[], None]) -> VideoChunk:
        """Tile the next chunk."""
        # The system gives memory as it is written to, but for what is pinned.
        cut = empty_tiles(self.tiles, self._chunk, pinned=self._pinned)
        ahead_of_demand = max(0, MAX_TILES_MADE - cut.nbytes) // cut[:, 0].nbytes
        if self._on_gpu:
            ahead_of_demand = self._chunk
        previews = None
        motion = []
        seen: list[tuple[float, int]] = []
        while len(seen) < self._chunk and upcoming.frame is not None:
            if len(seen) == ahead_of_demand:
                until_wanted()
            frame = upcoming.take()
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
            del frame
            upcoming.advance()
        timestamps, indices = zip(*seen, strict=True)
        info = self.info
        source = Source(
            self.tiles,
            timestamps,
            indices,
            self._chunk,
            info.path,
            stream=None if info.by_default else info.stream,
            end=self._video.end if upcoming.frame is None else upcoming.frame.timestamp,
        )
        return VideoChunk(
            Clips(
                _first_frames(cut, len(seen)),
                torch.stack(motion, dim=1) if motion else None,  # tiles, T, g, g
            ),
            source,
            None if previews is None else previews[: len(seen)],
        )


class _Upcoming:
    """Frames of a video, of which one is looked ahead at.

    Attributes:
        frame: the one to be taken next; None at the end, and when it has been taken.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.advance()

    def advance(self) -> None:
        """Look at the next frame."""
        self.frame = next(self._frames, None)

    def take(self) -> Frame:
        """The frame, which is not kept here."""
        frame, self.frame = self.frame, None
        if frame is None:
            raise VideoError("no frame is left")
        return frame


def _first_frames(
    cut: UInt8[Tensor, "tiles T 3 S S"], num_frames: int
) -> UInt8[Tensor, "tiles t 3 S S"]:
    """The first frames of all tiles, moved together in place: a copy would take as much again."""
    if num_frames == cut.shape[1]:
        return cut
    all_pixels, size = cut.numpy().reshape(-1), num_frames * cut[0, 0].numel()
    for number, tile in enumerate(cut[:, :num_frames].numpy()):
        # Never before where it was read from; NumPy takes care of what overlaps.
        all_pixels[number * size : (number + 1) * size] = tile.reshape(-1)
    return cut.view(-1)[: len(cut) * size].view(len(cut), num_frames, *cut.shape[2:])


def _scaled_down(pixels: UInt8[np.ndarray, "H W 3"], longest: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with its longer side at most `longest` pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(width, height))
    small = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return small.permute(1, 2, 0).numpy()


# Prefetching in a thread.


class Demand:
    """How many items the consumer has asked for, as their producer's thread sees it.

    A producer of large items waits in the middle of one until it is asked for: the consumer then
    has let go of the one before.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked = 0
        self._over = False

    def ask(self) -> None:
        """Ask for the next item."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def end(self) -> None:
        """No more items are wanted: nobody waits any longer."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait(self, number: int) -> None:
        """Wait until item `number`, from 0, is asked for, or no more items are wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._asked > number)


def ahead(
    items: Generator[Item, None, None], demand: Demand | None = None
) -> Generator[Item, None, None]:
    """Prefetch one item of `items` in a thread; its errors are raised here.

    The thread ends with the consumer, also early or with an error, at the latest when the
    current item is made.

    Args:
        items: run in the thread.
        demand: told of every item that is asked for.
    """
    made: queue.SimpleQueue[tuple[Item | None, BaseException | None]] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stop = threading.Event()
    demand = demand or Demand()

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
            demand.ask()
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
        demand.end()
        wanted.release()
        thread.join()
