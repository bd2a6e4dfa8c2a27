"""What is kept of a video: gazes and the pixels of their patches, and the order of their tokens.

A video is seen twice: as clips of 16 frames of high-resolution tiles, and as a few small whole
frames, the thumbnails. Of both only gazed patches are held, so memory follows what was kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.source import TileGrid


@dataclass(frozen=True, eq=False)
class GazedClips:
    """Gazed patches of B clips of T frames, with their pixels.

    Args:
        gaze: the patches, N in all; ids ascend within a frame.
        pixels: (N, 3, p, p) pixels of the patches in the tower's normalisation, in their order.
        tiled: whether the clips are tiles of the same frames, which share tokens; else every
            clip has frames of its own, as thumbnails have.
        frames: (B, T, 3, S, S) the whole frames, for the published dict only.
        order: (N,) how many patches of its frame and clip were chosen before each; None where that
            is not known.

    Raises:
        MLLMError: another number of patches than the gaze has.
    """

    gaze: Gaze
    pixels: Float[Tensor, "N 3 p p"]
    tiled: bool = True
    frames: Float[Tensor, "B T 3 S S"] | None = None
    order: Int[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        if len(self.pixels) != self.gaze.num_patches:
            raise MLLMError(
                f"the gaze has {self.gaze.num_patches} patches, but there are pixels of "
                f"{len(self.pixels)}"
            )

    @property
    def lengths(self) -> Int[Tensor, "clips frames"]:
        """Patches of the clips' frames, where clips of one column share tokens."""
        return self.gaze.lengths if self.tiled else self.gaze.lengths.view(1, -1)

    @property
    def is_whole(self) -> bool:
        """Whether all patches were taken, and none of them before another one."""
        return self.order is None and bool(
            (self.gaze.lengths == self.gaze.pyramid.num_patches).all()
        )

    @property
    def chosen(self) -> Gaze:
        """The gaze in the order of choice, where that is known."""
        if self.order is None:
            return self.gaze
        frame = self.gaze.frame_of_patch
        by_turn = (frame * self.gaze.pyramid.num_patches + self.order).argsort()
        return replace(self.gaze, ids=self.gaze.ids[by_turn], ordered=True)

    def where(self, kept: Bool[Tensor, " N"]) -> "GazedClips":
        """The same with some of the patches only."""
        gaze = self.gaze
        counts = gaze.frame_of_patch[kept].bincount(minlength=gaze.lengths.numel())
        # Losses are those of a whole frame's choice.
        fewer = replace(
            gaze,
            ids=gaze.ids[kept],
            lengths=counts.view_as(gaze.lengths),
            losses=None,
            predicted_losses=None,
        )
        order = None if self.order is None else self.order[kept]
        return replace(self, gaze=fewer, pixels=self.pixels[kept], order=order)

    def split(self, num_clips: int) -> "Iterator[GazedClips]":
        """The same, at most so many clips at a time; a clip keeps its frames together."""
        gaze = self.gaze
        for first in range(0, gaze.num_clips, num_clips):
            end = min(first + num_clips, gaze.num_clips)
            here = slice(gaze.offsets[first * gaze.num_frames], gaze.offsets[end * gaze.num_frames])
            part = replace(
                gaze,
                ids=gaze.ids[here],
                lengths=gaze.lengths[first:end],
                losses=None,
                predicted_losses=None,
                source=None,
            )
            frames = None if self.frames is None else self.frames[first:end]
            yield GazedClips(part, self.pixels[here], self.tiled, frames)

    def num_tokens(self, shuffle: int) -> int:
        """Tokens of the LLM, with `shuffle` patches of a frame in each."""
        return int(-(-self.lengths.sum(0) // shuffle).sum())

    def token_rows(self, shuffle: int) -> Int[Tensor, "tokens shuffle"]:
        """Rows of the patches that make up each token; see `token_rows`."""
        return token_rows(self.lengths, shuffle)

    def to(self, device: torch.device | str) -> "GazedClips":
        frames = None if self.frames is None else self.frames.to(device)
        return GazedClips(
            self.gaze.to(device), self.pixels.to(device), self.tiled, frames, self.order
        )


@dataclass(frozen=True, eq=False)
class GazedVideo:
    """Gazed patches of one video.

    Args:
        tiles: for every chunk of 16 frames (the last may be shorter) its tiles, row by row, each
            of them one clip.
        thumbnails: whole frames, each a clip of one frame; None without any.
        grid: how frames were cut into tiles; None where that is not known.

    Raises:
        MLLMError: nothing was kept, or parts of different pyramids.
    """

    tiles: tuple[GazedClips, ...]
    thumbnails: GazedClips | None = None
    grid: TileGrid | None = None

    def __post_init__(self) -> None:
        parts = self.parts
        if not sum(part.gaze.num_patches for part in parts):
            raise MLLMError(
                "no patch of the video was kept, so nothing stands for it in the prompt; raise the "
                "ratio, or lower the loss to be met"
            )
        if len({part.gaze.pyramid for part in parts}) > 1:
            raise MLLMError("the gazes of one video must have the same pyramid")

    @property
    def parts(self) -> tuple[GazedClips, ...]:
        """Chunks of tiles, then thumbnails: the order of their tokens."""
        return self.tiles if self.thumbnails is None else (*self.tiles, self.thumbnails)

    @property
    def gaze(self) -> Gaze:
        """The gaze at the tiles of all frames, (tiles, frames)."""
        return Gaze.cat_frames([chunk.gaze for chunk in self.tiles])

    @property
    def chosen(self) -> Gaze:
        """The same in the order of choice, where that is known: to be saved, and cut later."""
        return Gaze.cat_frames([chunk.chosen for chunk in self.tiles])

    @property
    def num_patches(self) -> int:
        """Kept patches of tiles and thumbnails."""
        return sum(part.gaze.num_patches for part in self.parts)

    def num_tokens(self, shuffle: int) -> int:
        """Tokens of the LLM: the sum over tile frames and thumbnails of ceil(patches / shuffle).

        A tile frame is all tiles of one frame together.
        """
        return sum(part.num_tokens(shuffle) for part in self.parts)

    def dense_tokens(self, shuffle: int) -> int:
        """Tokens that it would take with every patch."""
        patches = self.parts[0].gaze.pyramid.num_patches
        return sum(
            part.lengths.shape[1] * -(-part.lengths.shape[0] * patches // shuffle)
            for part in self.parts
        )

    def to(self, device: torch.device | str) -> "GazedVideo":
        thumbnails = None if self.thumbnails is None else self.thumbnails.to(device)
        return GazedVideo(tuple(chunk.to(device) for chunk in self.tiles), thumbnails, self.grid)

    def __repr__(self) -> str:
        gaze = self.gaze
        num = 0 if self.thumbnails is None else self.thumbnails.gaze.num_clips
        return (
            f"GazedVideo(tiles={gaze.num_clips}, frames={gaze.num_frames}, thumbnails={num}, "
            f"patches={self.num_patches}, pyramid={gaze.pyramid})"
        )


def token_rows(lengths: Int[Tensor, "B T"], shuffle: int) -> Int[Tensor, "tokens shuffle"]:
    """Rows of the packed features (clip by clip, frame by frame) that make up each token.

    Frame first: of frame t all clips in order, patches in their order; the last patch of a frame is
    repeated until `shuffle` divides its number.
    """
    clips, frames = lengths.shape
    counts = lengths.flatten()
    starts = (counts.cumsum(0) - counts).view(clips, frames)
    # Row of every patch in the order (frame, clip, patch).
    counts, starts = lengths.T.flatten(), starts.T.flatten()
    rows = starts.repeat_interleave(counts) + _ranks(counts)
    # Place in that order of every slot of every token.
    kept = lengths.sum(0)
    slots = -(-kept // shuffle) * shuffle
    first = (kept.cumsum(0) - kept).repeat_interleave(slots)
    last = (kept - 1).repeat_interleave(slots)
    return rows[first + torch.minimum(_ranks(slots), last)].view(-1, shuffle)


def _ranks(counts: Int[Tensor, " groups"]) -> Int[Tensor, " N"]:
    """0, 1, ... within each group."""
    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) - starts.repeat_interleave(counts)


def as_gazed_videos(videos: Any) -> list[GazedVideo]:
    """The videos of a call; none for None.

    Raises:
        MLLMError: anything but a list of them.
    """
    if videos is None:
        return []
    if not isinstance(videos, list | tuple) or not all(isinstance(v, GazedVideo) for v in videos):
        found = videos
        if isinstance(videos, list | tuple):
            found = next(video for video in videos if not isinstance(video, GazedVideo))
        raise MLLMError(
            "gazed_videos must be a list of GazedVideo, as the processor returns them, got "
            f"{describe_value(found)}"
        )
    return list(videos)
