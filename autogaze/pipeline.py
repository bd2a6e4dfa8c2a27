"""From a video file to its gaze, chunk by chunk, and from a saved gaze back to its video.

Memory does not grow with the length of the video, and only `MAX_TILES` tiles at a time exist as
floats, whatever its resolution.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.checks import as_path, describe_value
from autogaze.clips import Clips, Ratio
from autogaze.errors import AutoGazeError, GeometryError, VideoError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.source import Source
from autogaze.utils.device import BatchSize, free_memory, trim_memory
from autogaze.video.chunks import ChunkReader, VideoChunk, VideoOptions
from autogaze.video.decoders import DecoderName
from autogaze.video.reader import Frame, Video
from autogaze.video.tiling import cut_frame, empty_tiles

CHUNK = 16
"""Frames per chunk; every chunk is gazed at independently of the others."""

MAX_TILES = 16
"""Tiles of a chunk that are processed at once on a CPU, and at least on a GPU.

A selector may ask for fewer on a CPU (`Selector.cpu_batch`).
"""

GPU_SHARE = 0.25
"""Of a GPU's free memory that tiles may take as floats, before what selectors take besides."""

COPIES = 6
"""Floats of a tile's every pixel, at most, while it is gazed at and reconstructed."""

MAX_CHUNK = 2**30
"""Bytes of a chunk's tiles that may be asked for by a saved gaze, whatever its video's size."""

TRIM_EVERY = 0.25
"""Seconds of choosing after which freed memory is given back: what fragments leave grows else."""

MAX_SHIFT = 1e-3
"""Seconds by which a frame's timestamp may differ from that in a saved gaze."""


@dataclass(frozen=True)
class StageTimes:
    """Seconds spent in each stage.

    Decoding and tiling run in their own thread, a chunk ahead of the other stages, so the sum may
    exceed the time elapsed.
    """

    decode: float = 0.0
    tile: float = 0.0
    select: float = 0.0
    reconstruct: float = 0.0
    render: float = 0.0


@dataclass(frozen=True, eq=False)
class GazedChunk:
    """One chunk of a video and its gaze.

    Args:
        frames: (tiles, T, 3, S, S) the selector's input.
        gaze: (tiles, T) with its `source`, and with `losses` measured on the canvas.
        canvas: (tiles, T, 3, S, S) the canvas reconstruction, with `keep_canvas`.
        pixels: (T, h, w, 3) the whole frames, scaled down, with `preview`.
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    gaze: Gaze
    canvas: UInt8[Tensor, "B T 3 S S"] | None = None
    pixels: UInt8[np.ndarray, "T h w 3"] | None = None

    @property
    def source(self) -> Source:
        if self.gaze.source is None:
            raise AutoGazeError("this gaze does not know the video it comes from")
        return self.gaze.source

    @property
    def canvas_frames(self) -> UInt8[Tensor, "B T 3 S S"]:
        if self.canvas is None:
            raise AutoGazeError("this chunk was made without its canvas (keep_canvas=True)")
        return self.canvas


@runtime_checkable
class ClipSelector(Protocol):
    """Interface of selectors that `GazeStream` uses; see `autogaze.Selector`."""

    @property
    def name(self) -> str: ...
    @property
    def pyramid(self) -> PatchPyramid: ...
    @property
    def metric(self) -> str | None: ...
    @property
    def needs_motion(self) -> bool: ...

    def settings(
        self, ratio: Ratio | None, loss: float | None
    ) -> tuple[Ratio | None, float | None]: ...

    def select(
        self,
        clips: Clips | Tensor,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze: ...


def precision_of(selector: ClipSelector) -> torch.dtype:
    """In which a selector chooses: that of its model, or float32."""
    dtype: torch.dtype = getattr(selector, "dtype", torch.float32)
    return dtype


class GazeOptions(VideoOptions, total=False):
    """Options of `gaze_video` and `stream_video`; see `GazeStream`."""

    ratio: Ratio | None
    loss: float | None
    generator: torch.Generator | None


class GazeStream:
    """Iterates over the `GazedChunk`s of a video, and times the stages.

    Args:
        path: any file that PyAV decodes.
        selector: the selector.
        ratio: cap per frame, as a share of all patches, in (0, 1].
        loss: stop a frame as soon as its loss is at most this, in units of the
            selector's metric. With neither, the selector's default.
        generator: source of randomness, for selectors that use any.
        keep_canvas: keep the canvas of every chunk.
        preview: keep the whole frames too, their longer side at most this.
        video: `tiles`, `max_tiles`, `fps`, `start`, `end`, `skip_corrupt`, `stream`, `prefetch` and
            `decoder`, see `autogaze.video.ChunkReader`.

    Attributes:
        info: the file's size, rate and formats.
        grid: the tiling.
        target: the canvas loss at which frames stop, if any.

    Raises:
        VideoError: the file is missing, is no video, has no frames, or is corrupt.
        SelectorError: a setting that the selector does not support.
    """

    def __init__(
        self,
        path: str | Path,
        selector: ClipSelector,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
        keep_canvas: bool = False,
        preview: int | None = None,
        **video: Unpack[VideoOptions],
    ) -> None:
        self.path, self.selector = path, selector
        _, threshold = selector.settings(ratio, loss)
        self.target = threshold if selector.metric == "canvas" else None
        self._settings: dict[str, Any] = {"ratio": ratio, "loss": loss, "generator": generator}
        self._keep_canvas = keep_canvas
        # Selectors from outside need not have a device.
        self._device: torch.device | None = getattr(selector, "device", None)
        self._cpu_batch: int | None = getattr(selector, "cpu_batch", None)
        self._tiles = BatchSize(
            f"tiles on {self._device}",
            "take fewer tiles (max_tiles, --max-tiles), a lower ratio or another device",
        )
        self._select = self._reconstruct = self._trimmed = 0.0
        pyramid = selector.pyramid
        self._reader = ChunkReader(
            path,
            side=pyramid.side,
            chunk=CHUNK,
            motion_grid=pyramid.grids[-1] if selector.needs_motion else None,
            preview=preview,
            device=self._device,
            **video,
        )
        self.info, self.grid = self._reader.info, self._reader.tiles

    @property
    def fps(self) -> float:
        """Frames sampled per second; in videos of a variable rate, on average."""
        return min(self.info.rate, self._reader.range.fps or self.info.rate)

    @property
    def num_frames(self) -> int | None:
        """Estimated number of frames to be sampled; None if the file does not tell."""
        if self.info.num_frames is None:
            return None
        start, end = self._reader.range.start or 0.0, self._reader.range.end
        if (start, end) == (0.0, None) and self.fps == self.info.rate:
            return self.info.num_frames
        duration = self.info.num_frames / self.info.rate
        seconds = min(duration, math.inf if end is None else end) - start
        return max(1, min(self.info.num_frames, round(seconds * self.fps)))

    @property
    def times(self) -> StageTimes:
        """Seconds spent so far."""
        decode, tile = self._reader.seconds_decode, self._reader.seconds_tile
        return StageTimes(decode, tile, self._select, self._reconstruct)

    @property
    def precision(self) -> str:
        """Name of the precision in which patches are chosen, such as "bfloat16"."""
        return str(precision_of(self.selector)).removeprefix("torch.")

    @property
    def decoded_by(self) -> str:
        """What decoded the last frame: "pyav" or "torchcodec"."""
        return self._reader.decoded_by

    @property
    def num_corrupt(self) -> int:
        """Frames skipped so far because they could not be decoded."""
        return self._reader.num_corrupt

    def __iter__(self) -> Iterator[GazedChunk]:
        for chunk in self._reader:  # which raises if it has no frame to give
            yield self._gaze(chunk)
            del chunk  # free its memory while waiting for the next one
            trim_memory()  # or the heap of a long video grows by its fragments

    def _gaze(self, chunk: VideoChunk) -> GazedChunk:
        tiles = chunk.clips
        at_once = tiles_at_once(self._device, tiles, self._cpu_batch)
        parts = self._tiles.run(
            min(at_once, tiles.num_clips),
            lambda size: [self._gaze_part(part) for part in tiles.split(size)],
            self._settings["generator"],
        )
        gaze = replace(Gaze.cat_clips([gaze for gaze, _ in parts]), source=chunk.source)
        kept = [canvas for _, canvas in parts if canvas is not None]
        return GazedChunk(tiles.frames, gaze, torch.cat(kept) if kept else None, chunk.pixels)

    def _gaze_part(self, part: Clips) -> "tuple[Gaze, UInt8[Tensor, 'B T 3 S S'] | None]":
        """The gaze at some tiles with its canvas losses, and the canvas if it is to be kept."""
        began = time.perf_counter()
        if self._device is not None:
            part = part.to(self._device)  # whoever chooses: losses are measured there
        gaze = self.selector.select(part, **self._settings)
        chosen = time.perf_counter()
        kept = None
        if self._keep_canvas:
            kept = torch.empty(part.frames.shape, dtype=torch.uint8, device=part.frames.device)
        # Losses are measured on the canvas, also for selectors that predict losses.
        losses = (
            gaze.losses if gaze.metric == "canvas" else None
        )  # the selector has just measured it
        if losses is None or kept is not None:
            measured = canvas_losses(part.frames, gaze, kept)
            losses = measured if losses is None else losses
        predicted = gaze.predicted_losses
        gaze = replace(gaze, losses=losses, metric="canvas", predicted_losses=predicted).to("cpu")
        ended = time.perf_counter()
        self._select += chosen - began
        self._reconstruct += ended - chosen
        if ended - self._trimmed > TRIM_EVERY:
            self._trimmed = ended
            trim_memory()
        return gaze, None if kept is None else kept.cpu()


def tiles_at_once(device: torch.device | None, clips: Clips, cpu_batch: int | None = None) -> int:
    """Tiles processed together: on a CPU `cpu_batch` or `MAX_TILES`, or what a GPU's memory holds."""
    free = None if device is None else free_memory(device)
    if free is None:
        return cpu_batch or MAX_TILES
    floats = clips.frames[:1].numel() * torch.float32.itemsize
    return max(MAX_TILES, int(GPU_SHARE * free) // (COPIES * floats))


class GazedVideo:
    """A video with its saved gaze: iterates over its `GazedChunk`s, one in memory at a time.

    Frames are read by their numbers, so frames that were skipped (by a rate, or because they were
    corrupt) are skipped again.

    Args:
        path: the video; it may have moved since.
        gaze: with a `source`, as `autogaze.gaze_video` and `autogaze gaze --out` make it.
        stream: number of the video stream that was gazed at; None for the one that the gaze names.
        decoder: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.

    Attributes:
        source: tiling and frame times of the gaze.

    Raises:
        AutoGazeError: a gaze at no frames, or without a source.
        GeometryError: tiles of another side than the gaze's pyramid.
        VideoError: no video, or one of another size; later, a frame that is missing or has
            another timestamp.
    """

    source: Source

    def __init__(
        self,
        path: str | Path,
        gaze: Gaze,
        *,
        stream: int | None = None,
        decoder: DecoderName = "auto",
        device: torch.device | None = None,
    ) -> None:
        if gaze.source is None:
            raise AutoGazeError(
                "this gaze does not know which frames of which video it was made at; gaze at "
                "video files, with `autogaze gaze VIDEO --out FILE`"
            )
        if gaze.num_frames == 0:
            raise AutoGazeError("this gaze is at no frames")
        self.path, self.gaze, self.source = as_path(path, VideoError), gaze, gaze.source
        tiles = self.source.tiles
        if tiles.side != gaze.pyramid.side:
            raise GeometryError(
                f"tiles of {tiles.side} pixels were gazed at through {gaze.pyramid}, which is made "
                f"for {gaze.pyramid.side}: the pixels that were seen cannot be cut again"
            )
        named = self.source.stream if stream is None else stream
        self._video = Video(path, stream=named, decoder=decoder, device=device)
        info = self._video.info
        pixels = 3 * min(self.source.chunk, gaze.num_frames) * tiles.num_tiles * tiles.side**2
        if pixels > max(MAX_CHUNK, 16 * 3 * self.source.chunk * info.width * info.height):
            raise GeometryError(
                f"this gaze says that {tiles.num_tiles} tiles of {tiles.side} pixels were gazed at in "
                f"chunks of {self.source.chunk} frames: too many to be cut again ({pixels:,} bytes)"
            )
        if (info.width, info.height) != (tiles.width, tiles.height):
            raise VideoError(
                f"{path}: has {info.width} x {info.height} pixels, but the gaze was made at a "
                f"video of {tiles.width} x {tiles.height}; give that video{self.called}"
            )

    @property
    def decoded_by(self) -> str:
        """What decoded the last frame: "pyav" or "torchcodec"."""
        return self._video.decoded_by

    @property
    def num_chunks(self) -> int:
        return len(self.source.chunks)

    def __iter__(self) -> Iterator[GazedChunk]:
        frames = self._frames()
        for frames_of_chunk in self.source.chunks:
            gaze = self.gaze.frames(frames_of_chunk.start, frames_of_chunk.stop)
            cut = empty_tiles(self.source.tiles, gaze.num_frames)
            for place in range(gaze.num_frames):
                cut_frame(next(frames).pixels, self.source.tiles, cut[:, place])
            yield GazedChunk(cut, gaze)

    def _frames(self) -> Iterator[Frame]:
        """The frames that were gazed at."""
        numbers = self.source.frame_indices
        if any(later <= number for number, later in pairwise(numbers)):
            raise VideoError(
                f"{self.path}: the gaze numbers its frames {describe_value(list(numbers))}, which do not "
                f"ascend: it is of no video"
            )
        found = self._video.frames(first=numbers[0], last=numbers[-1], skip_corrupt=True)
        for number, seconds in zip(numbers, self.source.timestamps, strict=True):
            frame = next((frame for frame in found if frame.index >= number), None)
            if frame is None or frame.index != number:
                raise VideoError(
                    f"{self.path}: the gaze was made at frames {numbers[0]} to {numbers[-1]}, but "
                    f"frame {number} cannot be read here; give the video that it was made "
                    f"at{self.called}"
                )
            if abs(frame.timestamp - seconds) > MAX_SHIFT:
                raise VideoError(
                    f"{self.path}: shows frame {number} at {frame.timestamp:.3f} s, but the gaze "
                    f"saw it at {seconds:.3f} s; give the video that it was made at{self.called}"
                )
            yield frame

    @property
    def called(self) -> str:
        """The video's path when the gaze was made, in brackets, for messages."""
        return f" ({self.source.path})" if self.source.path else ""
