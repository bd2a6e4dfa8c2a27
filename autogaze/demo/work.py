"""One job of the page: gaze at a video as `autogaze gaze` does, and draw its pictures.

It can be stopped from another thread, within a frame of a chunk.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from autogaze.clips import Clips, Ratio, as_clips
from autogaze.demo.limits import Limits
from autogaze.evaluation.flops import Saving, SavingsCounter
from autogaze.gaze import Gaze
from autogaze.gaze_io import GazeWriter
from autogaze.pipeline import ClipSelector, GazeStream
from autogaze.rendering import (
    ContactSheet,
    OverlayVideo,
    ReconstructionVideo,
    Rendering,
    ScalesVideo,
    SourceVideo,
)
from autogaze.rendering.summary import FrameStats, Summary, Tally, frame_stats
from autogaze.selectors.base import Selector
from autogaze.utils.files import all_or_none
from autogaze.utils.seeding import generator_of
from autogaze.video.decoders import DecoderName

PREVIEW = 640
"""Longer side of frames in the page's videos, in pixels."""

LONGEST_NAME = 80
"""Characters of an uploaded file's name that its results are called by."""

Progress = Callable[[int, int | None], None]
"""Called with the frames done, and how many there are if that is known."""


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The job was stopped."""


class Stop(threading.Event):
    """A flag that stops a job: set in one thread, checked in another."""

    def check(self) -> None:
        """Raise `Cancelled` if the job is to stop."""
        if self.is_set():
            raise Cancelled


class StoppableSelector:
    """A selector that checks a flag before every frame; it chooses what the selector chooses.

    Many tiles of a chunk take seconds at once. Fed frame by frame, which gives the same gaze, they
    can be stopped between two frames.
    """

    def __init__(self, selector: Selector, stop: Stop) -> None:
        self._selector, self._stop = selector, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)

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


@dataclass(frozen=True)
class Settings:
    """Settings of a job; fields are options of `autogaze gaze`."""

    selector: str = "greedy"
    ratio: float | None = 0.1
    loss: float | None = None
    tiles: str = "resize"
    max_tiles: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    seed: int | None = None
    skip_corrupt: bool = False


@dataclass(frozen=True)
class Files:
    """Files of a job."""

    gaze: Path
    video: Path
    overlay: Path
    scales: Path
    reconstruction: Path
    sheet: Path

    @classmethod
    def within(cls, folder: Path, stem: str) -> "Files":
        """Names in a folder, after the video's own."""
        kinds = ("video.mp4", "overlay.mp4", "scales.mp4", "reconstruction.mp4", "sheet.png")
        stem = stem[:LONGEST_NAME] or "video"
        return cls(folder / f"{stem}.safetensors", *(folder / f"{stem}.{kind}" for kind in kinds))


@dataclass(frozen=True)
class Run:
    """A finished job.

    Args:
        settings: of the job.
        summary: figures of the whole video, those of `autogaze gaze --json`.
        frames: figures per frame.
        savings: per encoder.
        files: what was written.
    """

    settings: Settings
    summary: Summary
    frames: tuple[FrameStats, ...]
    savings: tuple[Saving, ...]
    files: Files


def gaze_at(
    video: Path,
    settings: Settings,
    selector: Selector,
    folder: Path,
    *,
    limits: Limits,
    stop: Stop,
    progress: Progress = lambda done, total: None,
    decoder: DecoderName = "auto",
) -> Run:
    """Gaze at a video and draw what the page shows.

    Args:
        video: an uploaded file.
        selector: the one that `settings` name.
        folder: where files are written, all of them or none.
        stop: checked before every frame and every picture.
        progress: called after every chunk.
        decoder: see `autogaze.video.Video`.

    Raises:
        LimitError: a video beyond the limits, by its header or by its frames.
        Cancelled: `stop` was set.
        AutoGazeError: a bad video or setting, as of `autogaze gaze`.
    """
    limits.check_file(video)
    files = Files.within(folder, video.stem)
    stream = GazeStream(
        video,
        cast(ClipSelector, StoppableSelector(selector, stop)),
        ratio=settings.ratio,
        loss=settings.loss,
        tiles=settings.tiles,
        max_tiles=limits.tiles
        if settings.max_tiles is None
        else min(limits.tiles, settings.max_tiles),
        fps=settings.fps,
        start=settings.start,
        end=settings.end,
        skip_corrupt=settings.skip_corrupt,
        decoder=decoder,
        generator=None if settings.seed is None else generator_of(settings.seed),
        keep_canvas=True,
        preview=PREVIEW,
    )
    check_stream(video, stream, limits)
    tally, savings, frames, render = Tally(), SavingsCounter(selector), list[FrameStats](), 0.0
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(all_or_none())
        writer = stack.enter_context(GazeWriter(files.gaze))
        renderings = [stack.enter_context(one) for one in _renderings(files, stream)]
        for chunk in stream:
            stop.check()
            tally.add(chunk)
            writer.add(chunk.gaze)
            savings.add(chunk.gaze)
            frames.extend(frame_stats(chunk))
            limits.check_length(video, frames[-1].seconds - frames[0].seconds)
            limits.check_frames(video, len(frames))
            start = time.perf_counter()
            for rendering in renderings:
                stop.check()
                rendering.add(chunk)
            render += time.perf_counter() - start
            progress(len(frames), stream.num_frames)
            del chunk  # free its memory before the next one is gazed at
        finishing = time.perf_counter()
    ended = time.perf_counter()
    summary = tally.summary(stream, render + ended - finishing, ended - began, {})
    return Run(settings, summary, tuple(frames), savings.savings, files)


def check_stream(video: Path, stream: GazeStream, limits: Limits) -> None:
    """Raise `LimitError` for what the video's header promises beyond the limits."""
    limits.check_frame(video, stream.info)
    if stream.num_frames is None or stream.info.is_image:
        return  # found out frame by frame
    limits.check_length(video, stream.num_frames / stream.fps)
    limits.check_frames(video, stream.num_frames)


def _renderings(files: Files, stream: GazeStream) -> list[Rendering]:
    fps = stream.fps
    return [
        SourceVideo(files.video, fps, longest=PREVIEW),
        OverlayVideo(files.overlay, fps, longest=PREVIEW),
        ScalesVideo(files.scales, fps, longest=PREVIEW),
        ReconstructionVideo(files.reconstruction, fps, longest=PREVIEW),
        ContactSheet(files.sheet, num_frames=stream.num_frames),
    ]
