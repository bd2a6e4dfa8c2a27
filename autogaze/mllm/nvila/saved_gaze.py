"""A gaze that was made before, given with its video: whether it fits, and what it says."""

from collections.abc import Sequence
from typing import Any

from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.nvila.whole_frames import WholeFrames
from autogaze.mllm.prompt_text import Place, per_video
from autogaze.mllm.same_video import check_file, check_size, load_gaze
from autogaze.mllm.sampled_video import FrameSource
from autogaze.source import TileGrid


def as_gazes(gaze: Any, places: Sequence[Sequence[Place]]) -> list[Gaze | WholeFrames | None]:
    """A gaze, the control `uniform`, or None, for every video; files are loaded.

    Args:
        gaze: of a video, or a list of them, or for every prompt a list.
        places: of every prompt.

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
