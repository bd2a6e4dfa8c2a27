"""Frames and tiles of a video for NVILA: sampled and planned, or those of a gaze that was made before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from autogaze.clips import as_frames
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.frames import resize_frames, upright
from autogaze.mllm.nvila.whole_frames import WholeFrames
from autogaze.mllm.prompt_text import Place, per_video
from autogaze.mllm.same_video import check_file, check_size, load_gaze
from autogaze.mllm.sampled_video import FrameSource
from autogaze.source import TileGrid
from autogaze.video.decoders import DecoderName


def frame_numbers(num_frames: int, wanted: int) -> tuple[int, ...]:
    """Numbers of `wanted` frames at even distances, the first and the last one included.

    A shorter video gives some of its frames repeatedly.
    """
    return tuple(np.round(np.linspace(0, num_frames - 1, wanted)).astype(int).tolist())


def thumbnail_places(num_frames: int, wanted: int) -> range:
    """Which of the sampled frames are thumbnails too: every (num_frames // wanted)-th, from 0."""
    if wanted == 0:
        return range(0)
    step = num_frames // wanted
    return range(0, wanted * step, step)


def open_video(
    video: Any,
    *,
    skip_corrupt: bool = False,
    decoder: DecoderName = "auto",
    device: torch.device | None = None,
) -> FrameSource:
    """The frames of a video.

    Args:
        video: path of a video or image file; or frames, (T, H, W, 3) or (T, 3, H, W), uint8 or
            floats in [0, 1], in any form that `autogaze.clips.as_frames` takes.
        skip_corrupt: a damaged frame is replaced by the last good one before it, instead of an error.
        decoder: of a file, see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.

    Raises:
        VideoError: a file that is no video.
        MLLMError: no frames, or more than one clip of them.
    """
    if not isinstance(video, str | Path):
        video = _as_bytes(as_frames(upright(video), MLLMError))
    return FrameSource(video, skip_corrupt=skip_corrupt, decoder=decoder, device=device)


def _as_bytes(frames: Shaped[Tensor, "B T 3 H W"]) -> UInt8[Tensor, "B T 3 H W"]:
    """Frames in 8 bits."""
    if frames.dtype == torch.uint8 or not frames.numel():
        return frames.byte()
    low, high = (float(value) for value in frames.float().aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise MLLMError(
            f"frames must be uint8, or floats in [0, 1], got {low:g} to {high:g}; give them "
            "before normalisation"
        )
    return (frames.float() * 255).round().clamp(0, 255).byte()


def plan_grid(width: int, height: int, side: int, max_tiles: int) -> TileGrid:
    """Tiles for frames of `width` x `height` pixels.

    Of all grids of at most `max_tiles` tiles the one whose aspect ratio is nearest to the frame's;
    of several with the same ratio a larger one is taken where the frame has more than half as many
    pixels.
    """
    aspect, area = width / height, width * height
    grids = sorted(
        (columns * rows, columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    )
    best, columns, rows = float("inf"), 1, 1
    for num_tiles, across, down in grids:
        distance = abs(aspect - across / down)
        is_larger = distance == best and area > 0.5 * side * side * num_tiles
        if distance < best or is_larger:
            best, columns, rows = distance, across, down
    return TileGrid(width, height, columns, rows, side, columns * side, rows * side)


def cut_frame(pixels: UInt8[Tensor, "3 H W"], grid: TileGrid) -> UInt8[Tensor, "tiles 3 side side"]:
    """A frame resized to its grid of tiles (bicubic, antialiased) and cut, row by row."""
    frame = resize_frames(pixels[None].cpu(), grid.content_height, grid.content_width)[0]
    tiles = frame.unflatten(2, (grid.columns, grid.side)).unflatten(1, (grid.rows, grid.side))
    return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)


def as_gazes(gaze: Any, places: Sequence[Sequence[Place]]) -> list[Gaze | WholeFrames | None]:
    """A gaze, the control `uniform`, or None, for every video, from one, a list, or a list per prompt.

    Raises:
        MLLMError: anything else, or another number of them.
    """
    loaded = [
        one if isinstance(one, WholeFrames | None) else load_gaze(one)
        for one in per_video(gaze, places, "gaze")
    ]
    for one in loaded:
        if not isinstance(one, Gaze | WholeFrames | None):
            raise MLLMError(
                f"NVILA-HD-Video takes a Gaze or the file of one, got a {type(one).__name__}"
            )
    return loaded


def check_gaze(gaze: Gaze, source: FrameSource, pyramid: PatchPyramid) -> None:
    """Raise MLLMError where a gaze was made for another tower, at another video, or at other tiles."""
    if gaze.pyramid != pyramid:
        raise MLLMError(
            f"the gaze was made for {gaze.pyramid} (scales / patch size), the vision tower takes "
            f"{pyramid}; gaze with a selector of that pyramid, or with this processor"
        )
    if not gaze.num_frames:
        raise MLLMError("the gaze is at no frames")
    if gaze.source is None:
        return
    check_size(gaze, source)
    check_file(gaze, source)
    tiles = gaze.source.tiles
    if tiles.side != pyramid.side or tiles.padded:
        raise MLLMError(
            f"the gaze is at {tiles.columns} x {tiles.rows} tiles of {tiles.side} pixels"
            f"{', some of them padded' if tiles.padded else ''}; NVILA-HD-Video's frames fill tiles of "
            f"{pyramid.side}: save the gazes that its processor returns (inputs.gazes)"
        )


def tiles_of(gaze: Gaze, planned: TileGrid) -> TileGrid:
    """The tiles that a gaze is at: its own, or for one without a source those that were planned.

    Raises:
        MLLMError: it has another number of tiles.
    """
    grid = planned if gaze.source is None else gaze.source.tiles
    if gaze.num_clips != grid.num_tiles:
        raise MLLMError(
            f"the gaze is at {gaze.num_clips} tiles, a frame of this video has {grid.columns} x "
            f"{grid.rows}; gaze at this video, with these max_tiles_video"
        )
    return grid


def frames_of(gaze: Gaze, sampled: Sequence[int], num_frames: int) -> tuple[int, ...]:
    """Numbers of the frames that a gaze is at: its own, or for one without a source the sampled ones.

    Raises:
        MLLMError: they are others than the video has.
    """
    if gaze.source is None:
        if gaze.num_frames != len(sampled):
            raise MLLMError(
                f"the gaze is at {gaze.num_frames} frames, {len(sampled)} were sampled; give "
                f"num_video_frames={gaze.num_frames}, or the gaze of this video"
            )
        return tuple(sampled)
    numbers = gaze.source.frame_indices
    if max(numbers) >= num_frames or list(numbers) != sorted(numbers):
        raise MLLMError(
            f"the gaze is at frames up to {max(numbers)}, the video has {num_frames} frames; give the "
            "video that it was made at"
        )
    return numbers
