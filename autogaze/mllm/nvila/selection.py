"""Gazing at a video's tiles and thumbnails, chunk by chunk while it is decoded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.checks import describe_value, whole
from autogaze.clips import Clips, as_loss, as_ratio
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.nvila.frames import (
    FrameSample,
    SampledFrame,
    cut_frame,
    plan_grid,
    thumbnail_places,
)
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.mllm.nvila.report import StageClock
from autogaze.selectors.base import Selector
from autogaze.source import Source, TileGrid
from autogaze.utils.normalization import PixelStatistics
from autogaze.video.motion import motion_map
from autogaze.video.tiling import empty_tiles
from autogaze.vision_encoders.patches import gazed_patches

CHUNK = 16
"""Frames of a clip of tiles."""

MAX_FRAMES, MAX_TILES = 2**16, 2**10
"""The most sampled frames of a video, and the most tiles of a frame."""

MAX_CHUNK = 2**33
"""The most bytes of the 8-bit pixels of a chunk of tiles, or of all thumbnails."""

GREY_LOSS = 0.5
"""The canvas loss that mid grey has at most: a threshold from there on is met by any patch."""


@dataclass(frozen=True)
class Budget:
    """How much of a clip's frames is gazed at.

    Args:
        ratio: cap per frame as a share of all patches, in (0, 1]; one number, or one per frame of
            a clip.
        loss: stopping threshold, in units of the selector's metric; None never stops.

    Raises:
        SelectorError: a ratio or loss out of range.
    """

    ratio: Any  # these two come from users: what they are is checked, not declared
    loss: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", as_ratio(self.ratio))
        if self.loss is not None:
            object.__setattr__(self, "loss", as_loss(self.loss))

    @property
    def is_everything(self) -> bool:
        """Whether all patches are taken, for which no selector has to run."""
        ratios = [self.ratio] if not isinstance(self.ratio, list | tuple) else self.ratio
        return self.loss is None and all(ratio is None or ratio == 1 for ratio in ratios)

    def check(self, selector: Selector, which: str) -> None:
        """Raise MLLMError for a threshold that makes no sense for a selector's metric."""
        if self.loss is None or self.is_everything:
            return
        name = f"task_loss_requirement_{which}"
        if selector.metric is None:
            raise MLLMError(
                f"{name}={self.loss:g}: the selector {selector.name} cannot stop by loss; give "
                f"{name}=None (or ratio=...), so that the ratio alone decides"
            )
        if selector.metric == "canvas" and self.loss >= GREY_LOSS:
            raise MLLMError(
                f"{name}={self.loss:g}: the selector {selector.name} stops by canvas loss, which "
                f"lies below {GREY_LOSS} after any patch (0.7 is for the published selector's "
                f"predicted loss); give one such as 0.05, or None so that the ratio alone decides"
            )


@dataclass(frozen=True)
class GazeSettings:
    """How a video is sampled, tiled and gazed at.

    Args:
        num_frames: sampled frames, in clips of `CHUNK` (the last clip may be shorter).
        num_thumbnails: of these frames, shown as small whole frames too.
        max_tiles: the most tiles of a frame.
        tiles, thumbnails: how much of them is gazed at.
        pyramid: patches of the tower; its side is that of a tile.
        statistics: pixel statistics of the tower.
        clips_at_once: clips that the selector gets at a time.
        skip_corrupt: a damaged frame is replaced by the one before it, instead of an error.
        keep_frames: also return whole tiles and thumbnails, for the published dict.

    Raises:
        MLLMError: a number out of range.
    """

    num_frames: Any  # numbers come from users: what they are is checked, not declared
    num_thumbnails: Any
    max_tiles: Any
    tiles: Budget
    thumbnails: Budget
    pyramid: PatchPyramid
    statistics: PixelStatistics
    clips_at_once: Any = 32
    skip_corrupt: bool = False
    keep_frames: bool = False

    def __post_init__(self) -> None:
        bounds = {
            "num_video_frames": (self.num_frames, 1, MAX_FRAMES),
            "num_video_frames_thumbnail": (self.num_thumbnails, 0, MAX_FRAMES),
            "max_tiles_video": (self.max_tiles, 1, MAX_TILES),
            "max_batch_size_autogaze": (self.clips_at_once, 1, 2**31),
        }
        for name, (value, least, most) in bounds.items():
            number = whole(value)
            if number is None or not least <= number <= most:
                raise MLLMError(
                    f"{name} must be a whole number from {least} to {most:,}, got "
                    f"{describe_value(value)}"
                )
        for name, value in (("skip_corrupt", self.skip_corrupt), ("published", self.keep_frames)):
            if not isinstance(value, bool):
                raise MLLMError(f"{name} must be True or False, got {describe_value(value)}")
        if self.num_thumbnails > self.num_frames:
            raise MLLMError(
                f"num_video_frames_thumbnail={self.num_thumbnails} is more than "
                f"num_video_frames={self.num_frames}, of which thumbnails are made"
            )

    @property
    def runs_selector(self) -> bool:
        """Whether a selector is needed at all."""
        thumbnails = self.num_thumbnails and not self.thumbnails.is_everything
        return not self.tiles.is_everything or bool(thumbnails)

    def check_selector(self, selector: Selector) -> None:
        """Raise MLLMError for a selector of another grid, or that cannot keep the budgets."""
        if selector.pyramid != self.pyramid:
            raise MLLMError(
                f"the selector {selector.name} chooses among patches of {selector.pyramid} (scales "
                f"/ patch size), the vision tower takes those of {self.pyramid}; load it with "
                f"pyramid=PatchPyramid({self.pyramid.scales}, {self.pyramid.patch_size})"
            )
        self.tiles.check(selector, "tile")
        if self.num_thumbnails:
            self.thumbnails.check(selector, "thumbnail")


def gaze_at(
    video: Any,
    settings: GazeSettings,
    selector: Selector | None,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    clock: StageClock | None = None,
) -> GazedVideo:
    """Sample a video, gaze at its tiles and thumbnails, and keep what was gazed at.

    One chunk of tiles is in memory at a time, in 8 bits.

    Args:
        video: a path, or frames; see `FrameSample.of`.
        settings: see `GazeSettings`.
        selector: may be None where everything is kept.
        device: where the selector runs and patches are cut.
        generator: source of randomness, for selectors that use any.
        clock: adds up the seconds of each stage.

    Raises:
        MLLMError: see `GazeSettings`; nothing was kept.
        VideoError: the file is no video, or damaged.
    """
    if settings.runs_selector:
        if selector is None:
            raise MLLMError("a selector is needed unless everything is kept (ratio 1, no loss)")
        settings.check_selector(selector)
    motion = settings.runs_selector and selector is not None and selector.needs_motion
    frames = FrameSample.of(
        video, settings.num_frames, skip_corrupt=settings.skip_corrupt, motion=motion
    )
    side = settings.pyramid.side
    grid = plan_grid(*frames.source.size, side, settings.max_tiles)
    whole_frame = TileGrid(*frames.source.size, 1, 1, side, side, side)
    shown_whole = set(thumbnail_places(settings.num_frames, settings.num_thumbnails))
    clock = clock or StageClock()
    gazer = _Gazer(settings, selector, torch.device(device), generator, clock)
    num_frames, num_thumbnails = settings.num_frames, settings.num_thumbnails
    chunk = _Chunk(grid, settings, min(CHUNK, num_frames))
    thumbnails = _Chunk(whole_frame, settings, num_thumbnails)
    tiles = []
    reading = iter(frames)
    for place in range(num_frames):
        with clock.stage("decode"):
            frame = next(reading)
        with clock.stage("resize"):
            chunk.add(frame)
            if place in shown_whole:
                thumbnails.add(frame)
        if chunk.num_frames == CHUNK or place + 1 == num_frames:
            source = chunk.source(frames.source.path)
            tiles.append(gazer.gaze(chunk.clips(), settings.tiles, tiled=True, source=source))
            chunk.clear()
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

    def __init__(self, grid: TileGrid, settings: GazeSettings, most_frames: int) -> None:
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

    def add(self, frame: SampledFrame) -> None:
        self.tiles[:, self.num_frames] = cut_frame(frame.pixels, self.grid)
        self.times.append(frame.seconds)
        self.numbers.append(frame.number)
        if frame.motion is not None:
            self.motion.append(motion_map(frame.motion, self.grid, self.cells))

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

    settings: GazeSettings
    selector: Selector | None
    device: torch.device
    generator: torch.Generator | None
    clock: StageClock

    def gaze(
        self, clips: Clips, budget: Budget, *, tiled: bool, source: Source | None = None
    ) -> GazedClips:
        gazes, pixels, frames = [], [], []
        for part in clips.split(self.settings.clips_at_once):
            with self.clock.stage("select"):
                gaze = self._select(part, budget)
            gazes.append(gaze)
            with self.clock.stage("cut"):
                for clip, one in zip(part.split(1), gaze, strict=True):
                    whole, cut = self._cut(clip, one)
                    pixels.append(cut)
                    if self.settings.keep_frames:
                        frames.append(whole)
        gaze = replace(Gaze.cat_clips(gazes).to("cpu"), source=source)
        kept = torch.cat(frames) if frames else None
        return GazedClips(gaze, torch.cat(pixels), tiled, kept)

    def _select(self, clips: Clips, budget: Budget) -> Gaze:
        """The gaze, ids ascending in every frame, as the tower's tokens stand."""
        pyramid = self.settings.pyramid
        if budget.is_everything or self.selector is None:
            gaze = Gaze.everything(pyramid, clips.num_clips, clips.num_frames)
            return gaze.to(self.device)
        on_device = Clips(clips.frames.to(self.device), clips.motion)
        gaze = self.selector.select(
            on_device, ratio=budget.ratio, loss=budget.loss, generator=self.generator
        )
        frame, vocabulary = gaze.frame_of_patch, pyramid.num_patches
        ids = (frame * vocabulary + gaze.ids).sort().values % vocabulary
        return replace(gaze, ids=ids, ordered=False).to(self.device)

    def _cut(
        self, clip: Clips, gaze: Gaze
    ) -> tuple[Float[Tensor, "one T 3 S S"], Float[Tensor, "n 3 p p"]]:
        """The frames of one clip, normalised, and the pixels of its patches."""
        frames = self.settings.statistics.normalise(clip.frames.to(self.device).float() / 255)
        patches = gazed_patches(frames[0], gaze.ids, gaze.frame_of_patch, gaze.pyramid)
        return frames.cpu() if self.settings.keep_frames else frames, patches.cpu()
