"""Gazing at a video's tiles and thumbnails, chunk by chunk while it is decoded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.clips import Clips, Ratio
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.nvila.frames import (
    check_gaze,
    cut_frame,
    frame_numbers,
    frames_of,
    open_video,
    plan_grid,
    thumbnail_places,
    tiles_of,
)
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.mllm.nvila.video_settings import ClipBudget, VideoSettings
from autogaze.mllm.nvila.whole_frames import WholeFrames
from autogaze.mllm.processor_output import StageClock
from autogaze.mllm.ranking import first_patches, with_whole_frames_spread
from autogaze.mllm.same_video import check_times
from autogaze.selectors.base import Selector
from autogaze.source import Source, TileGrid
from autogaze.video.motion import MotionField, motion_map
from autogaze.video.tiling import empty_tiles
from autogaze.vision_encoders.patches import gazed_patches

CHUNK = 16
"""Frames of a clip of tiles."""

MAX_CHUNK = 2**33
"""The most bytes of the 8-bit pixels of a chunk of tiles, or of all thumbnails."""


def gaze_at(
    video: Any,
    settings: VideoSettings,
    selector: Selector | None,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    clock: StageClock | None = None,
    *,
    made: Gaze | WholeFrames | None = None,
    first: Ratio | None = None,
) -> GazedVideo:
    """Sample a video, gaze at its tiles and thumbnails, and keep what was gazed at.

    One chunk of tiles is in memory at a time, in 8 bits.

    Args:
        video: a path, or frames; see `open_video`.
        selector: may be None where everything is kept.
        device: where the selector runs and patches are cut.
        clock: adds up the seconds of each stage.
        made: a gaze at the tiles that was made before, instead of selecting. One that knows its
            video says which frames are taken and how they are tiled. Or the control `uniform`.
        first: keep this share of the patches of every tile alone, those that `made` chose first.

    Raises:
        MLLMError: see `VideoSettings`; nothing was kept; a gaze of another video.
        VideoError: the file is no video, or damaged.
    """
    runs_selector = settings.runs_selector if made is None else settings.gazes_at_thumbnails
    if runs_selector:
        if selector is None:
            raise MLLMError("a selector is needed unless everything is kept (ratio 1, no loss)")
        settings.check_selector(selector)
    motion = runs_selector and selector is not None and selector.needs_motion
    source = open_video(
        video,
        skip_corrupt=settings.skip_corrupt,
        decoder=settings.decoder,
        device=torch.device(device),
    )
    numbers = frame_numbers(source.num_frames, settings.num_video_frames)
    if isinstance(made, Gaze):
        numbers = frames_of(made, numbers, source.num_frames)
    num_frames = len(numbers)
    side = settings.pyramid.side
    grid = plan_grid(*source.size, side, settings.max_tiles_video)
    if isinstance(made, WholeFrames):
        made = made.gaze(settings, grid.num_tiles, num_frames)
    if made is not None:
        check_gaze(made, source, settings.pyramid)
        grid = tiles_of(made, grid)
    whole_frame = TileGrid(*source.size, 1, 1, side, side, side)
    num_thumbnails = min(settings.num_video_frames_thumbnail, num_frames)
    shown_whole = set(thumbnail_places(num_frames, num_thumbnails))
    clock = clock or StageClock()
    tiles_budget = settings.tile_budget(selector, grid.num_tiles * num_frames)
    gazer = _Gazer(settings, selector, torch.device(device), generator, clock)
    chunk = _Chunk(grid, settings, min(CHUNK, num_frames))
    thumbnails = _Chunk(whole_frame, settings, num_thumbnails)
    tiles: list[GazedClips] = []
    seconds: list[float] = []
    reading = source.read(numbers, motion)
    for place, number in enumerate(numbers):
        with clock.stage("decode"):
            second, pixels, moved = next(reading)
        seconds.append(second)
        with clock.stage("resize"):
            chunk.add(number, second, pixels, moved)
            if place in shown_whole:
                thumbnails.add(number, second, pixels, moved)
        if chunk.num_frames == CHUNK or place + 1 == num_frames:
            part = None
            if made is not None:
                part = made.frames(place + 1 - chunk.num_frames, place + 1)
                part = first_patches(part, first)
            where = chunk.source(source.path)
            tiles.append(
                gazer.gaze(chunk.clips(), tiles_budget, tiled=True, source=where, made=part)
            )
            chunk.clear()
    if made is not None:
        check_times(made, seconds, source)
    small = None
    if num_thumbnails:
        each = thumbnails.clips()
        clips = Clips(
            each.frames.transpose(0, 1),
            None if each.motion is None else each.motion.transpose(0, 1),
        )
        small = gazer.gaze(clips, settings.thumbnails, tiled=False)
    return GazedVideo(tuple(tiles), small, grid)


class _Chunk:
    """Frames cut into tiles, gathered one by one in memory that is used again."""

    def __init__(self, grid: TileGrid, settings: VideoSettings, most_frames: int) -> None:
        self.grid, self.cells = grid, settings.pyramid.grids[-1]
        size = 3 * grid.side**2 * grid.num_tiles * most_frames
        if size > MAX_CHUNK:
            raise MLLMError(
                f"{most_frames} frames of {grid.num_tiles} tiles of {grid.side} pixels are "
                f"{size / 2**30:.1f} GiB, at most {MAX_CHUNK / 2**30:.0f} GiB are taken; give fewer "
                "tiles (max_tiles_video) or thumbnails (num_video_frames_thumbnail)"
            )
        self.tiles = empty_tiles(grid, most_frames)
        self.clear()

    def clear(self) -> None:
        self.motion: list[Float[Tensor, "tiles g g"]] = []
        self.times: list[float] = []
        self.numbers: list[int] = []

    @property
    def num_frames(self) -> int:
        return len(self.times)

    def add(
        self, number: int, second: float, pixels: UInt8[Tensor, "3 H W"], moved: MotionField | None
    ) -> None:
        self.tiles[:, self.num_frames] = cut_frame(pixels, self.grid)
        self.times.append(second)
        self.numbers.append(number)
        if moved is not None:
            self.motion.append(motion_map(moved, self.grid, self.cells))

    def clips(self) -> Clips:
        """One clip per tile."""
        motion = torch.stack(self.motion, dim=1) if self.motion else None
        return Clips(self.tiles[:, : self.num_frames], motion)

    def source(self, path: Path | None) -> Source | None:
        """Where its tiles lie in the file; None of frames that came without times."""
        if path is None:
            return None
        return Source(self.grid, tuple(self.times), tuple(self.numbers), CHUNK, str(path))


@dataclass(frozen=True)
class _Gazer:
    """Gazes at clips and cuts the patches out."""

    settings: VideoSettings
    selector: Selector | None
    device: torch.device
    generator: torch.Generator | None
    clock: StageClock

    def gaze(
        self,
        clips: Clips,
        budget: ClipBudget,
        *,
        tiled: bool,
        source: Source | None = None,
        made: Gaze | None = None,
    ) -> GazedClips:
        gazes, orders, pixels, frames = [], [], [], []
        first = 0
        for part in clips.split(self.settings.max_batch_size_autogaze):
            with self.clock.stage("select"):
                if made is None:
                    gaze = self._select(part, budget, is_cut=tiled)
                else:
                    own = [made[clip] for clip in range(first, first + part.num_clips)]
                    gaze = Gaze.cat_clips(own)
                    first += part.num_clips
                gaze, order = _ascending(gaze)
                gazes.append(gaze)
                orders.append(order)
                gaze = gaze.to(self.device)
            with self.clock.stage("cut"):
                for clip, one in zip(part.split(1), gaze, strict=True):
                    whole, cut = self._cut(clip, one)
                    pixels.append(cut)
                    if self.settings.keep_frames:
                        frames.append(whole)
        gaze = replace(Gaze.cat_clips(gazes).to("cpu"), source=source)
        known = [order.cpu() for order in orders if order is not None]
        order = torch.cat(known) if len(known) == len(orders) else None
        kept = torch.cat(frames) if frames else None
        return GazedClips(gaze, torch.cat(pixels), tiled, kept, order)

    def _select(self, clips: Clips, budget: ClipBudget, *, is_cut: bool) -> Gaze:
        """The gaze, in the order of choice where the selector knows it."""
        pyramid, settings = self.settings.pyramid, self.settings
        everything = budget.is_everything and not (
            is_cut and settings.max_vision_tokens is not None
        )
        if everything or self.selector is None:
            return Gaze.everything(pyramid, clips.num_clips, clips.num_frames).to(self.device)
        on_device = Clips(clips.frames.to(self.device), clips.motion)
        gaze = self.selector.select(
            on_device, ratio=budget.ratio, loss=budget.loss, generator=self.generator
        )
        if settings.max_vision_tokens is not None:
            gaze = with_whole_frames_spread(gaze, budget.ratio)
        return gaze

    def _cut(
        self, clip: Clips, gaze: Gaze
    ) -> tuple[Float[Tensor, "one T 3 S S"], Float[Tensor, "n 3 p p"]]:
        """The frames of one clip, normalised, and the pixels of its patches."""
        frames = self.settings.statistics.normalise(clip.frames.to(self.device).float() / 255)
        patches = gazed_patches(frames[0], gaze.ids, gaze.frame_of_patch, gaze.pyramid)
        return frames.cpu() if self.settings.keep_frames else frames, patches.cpu()


def _ascending(gaze: Gaze) -> tuple[Gaze, Int[Tensor, " N"] | None]:
    """The gaze with ids ascending in every frame, as the tower's tokens stand, and how many patches were
    chosen before each.
    """
    frame, vocabulary = gaze.frame_of_patch, gaze.pyramid.num_patches
    sorted_ids = (frame * vocabulary + gaze.ids).sort()
    order = None
    if gaze.ordered:
        starts = torch.tensor(gaze.offsets, device=frame.device)[frame]
        place = torch.arange(len(frame), device=frame.device) - starts
        order = place[sorted_ids.indices]
    return replace(gaze, ids=sorted_ids.values % vocabulary, ordered=False), order
