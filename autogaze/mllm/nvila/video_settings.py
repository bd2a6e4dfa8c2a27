"""How a video is sampled, tiled and gazed at for NVILA."""

from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property
from typing import Any

from autogaze.clips import as_loss, as_ratio
from autogaze.errors import MLLMError
from autogaze.geometry import PatchPyramid
from autogaze.mllm.checks import as_count, check_kind, check_tokens
from autogaze.mllm.unit_choice import MAX_EVEN_SHARES
from autogaze.selectors.base import Selector
from autogaze.utils.normalization import PixelStatistics
from autogaze.video.decoders import DecoderName, check_decoder

MAX_FRAMES, MAX_TILES = 2**16, 2**10
"""The most sampled frames of a video, and the most tiles of a frame."""

GREY_LOSS = 0.5
"""The canvas loss that mid grey has at most: a threshold from there on is met by any patch."""


@dataclass(frozen=True)
class ClipBudget:
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
class VideoSettings:
    """How a video is sampled, tiled and gazed at.

    Args:
        num_video_frames: and the other positional ones: arguments of `AutoGazeMLLMProcessor` that a
            call can change, described there. With `max_vision_tokens` the tiles of a frame may ask
            for `MAX_EVEN_SHARES` times its even share of them.
        pyramid: patches of the tower; its side is that of a tile.
        statistics: pixel statistics of the tower.
        shuffle: patches of a frame in a token.
        skip_corrupt: a damaged frame is replaced by the one before it, instead of an error.
        decoder: of files: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`.
        keep_frames: also return whole tiles and thumbnails, for the published dict.

    Raises:
        MLLMError: a number out of range.
        SelectorError: a ratio or loss out of range.
        VideoError: no such decoder, or one that is not here.
    """

    num_video_frames: Any  # these come from users: what they are is checked, not declared
    num_video_frames_thumbnail: Any
    max_tiles_video: Any
    gazing_ratio_tile: Any
    task_loss_requirement_tile: Any
    gazing_ratio_thumbnail: Any
    task_loss_requirement_thumbnail: Any
    max_batch_size_autogaze: Any
    max_vision_tokens: Any
    _: KW_ONLY
    pyramid: PatchPyramid
    statistics: PixelStatistics
    shuffle: int = 9
    skip_corrupt: bool = False
    decoder: DecoderName = "auto"
    keep_frames: bool = False

    def __post_init__(self) -> None:
        for name, least, most in (
            ("num_video_frames", 1, MAX_FRAMES),
            ("num_video_frames_thumbnail", 0, MAX_FRAMES),
            ("max_tiles_video", 1, MAX_TILES),
            ("max_batch_size_autogaze", 1, 2**31),
        ):
            number = as_count(getattr(self, name), name, least, most)
            object.__setattr__(self, name, number)  # 3.0 is 3
        _ = self.tiles, self.thumbnails  # they check themselves
        check_tokens(self.max_vision_tokens)
        check_kind(self.skip_corrupt, bool, "skip_corrupt")
        check_kind(self.keep_frames, bool, "published")
        check_decoder(self.decoder)
        if self.num_video_frames_thumbnail > self.num_video_frames:
            raise MLLMError(
                f"num_video_frames_thumbnail={self.num_video_frames_thumbnail} is more than "
                f"num_video_frames={self.num_video_frames}, of which thumbnails are made"
            )

    @classmethod
    def arguments(cls) -> tuple[str, ...]:
        """Names of the processor's arguments among the fields."""
        return tuple(field.name for field in fields(cls) if not field.kw_only)

    @cached_property
    def tiles(self) -> ClipBudget:
        """How much of the tiles is gazed at."""
        return ClipBudget(self.gazing_ratio_tile, self.task_loss_requirement_tile)

    @cached_property
    def thumbnails(self) -> ClipBudget:
        """How much of the thumbnails is gazed at."""
        return ClipBudget(self.gazing_ratio_thumbnail, self.task_loss_requirement_thumbnail)

    @property
    def runs_selector(self) -> bool:
        """Whether a selector is needed at all."""
        return (
            not self.tiles.is_everything
            or self.max_vision_tokens is not None
            or self.gazes_at_thumbnails
        )

    @property
    def gazes_at_thumbnails(self) -> bool:
        """Whether a selector is needed for thumbnails."""
        return bool(self.num_video_frames_thumbnail) and not self.thumbnails.is_everything

    def of_videos(self, count: int) -> "VideoSettings":
        """The settings of each of so many videos that share the tokens of one prompt."""
        if self.max_vision_tokens is None or count < 2:
            return self
        return replace(self, max_vision_tokens=-(-self.max_vision_tokens // count))

    def tile_budget(self, selector: Selector | None, num_clip_frames: int) -> ClipBudget:
        """What is gazed at of each of so many frames of tiles: less where tokens are few."""
        if self.max_vision_tokens is None or selector is None:
            return self.tiles
        dense = num_clip_frames * self.pyramid.num_patches
        most = min(1.0, MAX_EVEN_SHARES * self.max_vision_tokens * self.shuffle / dense)
        ratio, loss = self.tiles.ratio, self.tiles.loss
        if isinstance(ratio, list | tuple):
            ratio = [min(each, most) for each in ratio]
        else:
            ratio = most if ratio is None else min(ratio, most)
        if loss is None and selector.metric is not None:
            loss = selector.default_loss
        return ClipBudget(ratio, loss)

    def check_selector(self, selector: Selector) -> None:
        """Raise MLLMError for a selector of another grid, or that cannot keep the budgets."""
        if selector.pyramid != self.pyramid:
            raise MLLMError(
                f"the selector {selector.name} chooses among patches of {selector.pyramid} (scales "
                f"/ patch size), the vision tower takes those of {self.pyramid}; load it with "
                f"pyramid=PatchPyramid({self.pyramid.scales}, {self.pyramid.patch_size})"
            )
        self.tiles.check(selector, "tile")
        if self.num_video_frames_thumbnail:
            self.thumbnails.check(selector, "thumbnail")


def one_kind_of_budget(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of a call, in which a budget replaces those of other kinds that were set before."""
    of_tiles = ("gazing_ratio_tile", "task_loss_requirement_tile")
    by_tokens = changes.get("max_vision_tokens") is not None
    if by_tokens and not any(name in changes for name in of_tiles):
        return {**changes, **dict.fromkeys(of_tiles)}
    if any(changes.get(name) is not None for name in of_tiles):
        return {"max_vision_tokens": None, **changes}
    return changes
