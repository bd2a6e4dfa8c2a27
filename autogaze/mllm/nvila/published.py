"""The padded dict that the published processor returns and its model takes.

It holds whole tiles, not only what was gazed at, and every frame is padded to the largest count
of patches among all clips of all videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense
from autogaze.errors import GeometryError, MLLMError
from autogaze.gaze import Gaze
from autogaze.gaze_checks import is_integers, shape
from autogaze.geometry import PatchPyramid
from autogaze.mllm.checks import as_whole_numbers
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.vision_encoders.patches import gazed_patches

PIXELS = {"tiles": "pixel_values_videos_tiles", "thumbnails": "pixel_values_videos_thumbnails"}
KEYS = (*PIXELS.values(), "num_spatial_tiles_each_video", "gazing_info")
GAZE_KEYS = ("gazing_pos", "num_gazing_each_frame", "if_padded_gazing")


def to_published(videos: Sequence[GazedVideo]) -> dict[str, Any]:
    """The dict of videos that were gazed at with `keep_frames=True`.

    Keys: `pixel_values_videos_tiles` and `pixel_values_videos_thumbnails`, lists of (clips, T, 3, S,
    S) and (m, 1, 3, S, S), one per video; `num_spatial_tiles_each_video`, a list; and `gazing_info`,
    with `gazing_pos_tiles` (clips, N) ids numbered over the clip, 0 where padded,
    `num_gazing_each_frame_tiles` (clips, T), `if_padded_gazing_tiles` (clips, N), and the same for
    `_thumbnails`: lists, one entry per video.

    Raises:
        MLLMError: chunks of different lengths, videos without thumbnails, or without whole frames.
    """
    thumbnails = [video.thumbnails for video in videos if video.thumbnails is not None]
    if len(thumbnails) < len(videos):
        raise MLLMError(
            "the published dict needs thumbnails; give num_video_frames_thumbnail of at least 1"
        )
    tiles = [list(video.tiles) for video in videos]
    lengths = {chunk.gaze.num_frames for chunks in tiles for chunk in chunks}
    if len(lengths) > 1:
        raise MLLMError(
            f"the published dict has clips of one length, got {sorted(lengths)} frames; give "
            "num_video_frames as a multiple of 16, or take the processor's own output"
        )
    info: dict[str, list[Tensor]] = {}
    pixels = {}
    for name, parts in (("tiles", tiles), ("thumbnails", [[part] for part in thumbnails])):
        pixels[PIXELS[name]] = [torch.cat([_frames(part) for part in own]) for own in parts]
        for key, values in _padded([[part.gaze for part in own] for own in parts]).items():
            info[f"{key}_{name}"] = values
    return {
        **pixels,
        "num_spatial_tiles_each_video": [chunks[0].gaze.num_clips for chunks in tiles],
        "gazing_info": info,
    }


def _frames(part: GazedClips) -> Float[Tensor, "B T 3 S S"]:
    if part.frames is None:
        raise MLLMError("the published dict needs whole frames; gaze with keep_frames=True")
    return part.frames


def _padded(gazes: list[list[Gaze]]) -> dict[str, list[Tensor]]:
    """Gazes of every video's clips, all frames padded alike."""
    # Those of several selectors, and made ones, may have losses of other metrics: ids are wanted.
    bare = [
        replace(gaze, metric=None, losses=None, predicted_losses=None)
        for own in gazes
        for gaze in own
    ]
    joined = Gaze.cat_clips(bare)
    padded = joined.padded()
    positions = padded["gazing_pos"].masked_fill(padded["if_padded_gazing"], 0)
    clips = [sum(gaze.num_clips for gaze in own) for own in gazes]
    counts = padded["num_gazing_each_frame"]
    return {
        "gazing_pos": list(positions.split(clips)),
        "num_gazing_each_frame": [counts.repeat(count, 1) for count in clips],
        "if_padded_gazing": list(padded["if_padded_gazing"].split(clips)),
    }


def from_published(values: Mapping[str, Any], pyramid: PatchPyramid) -> list[GazedVideo]:
    """The videos of a published dict.

    Args:
        values: with the keys that `to_published` describes; others are not read.
        pyramid: of the vision tower.

    Raises:
        MLLMError: keys that are missing, lists of different lengths, or tiles that do not fit.
        GeometryError: a gaze of another grid.
    """
    missing = [key for key in KEYS if values.get(key) is None]
    if missing:
        raise MLLMError(f"the published dict lacks {', '.join(missing)}; it has {', '.join(KEYS)}")
    info = values["gazing_info"]
    if not isinstance(info, Mapping):
        raise MLLMError(f"gazing_info must be a dict, got {describe_value(info)}")
    names = [f"{key}_{name}" for name in PIXELS for key in GAZE_KEYS]
    absent = [name for name in names if name not in info]
    if absent:
        raise MLLMError(f"gazing_info lacks {', '.join(absent)}; it has {', '.join(names)}")
    name = "num_spatial_tiles_each_video"
    tiles_each = as_whole_numbers(values[name], name)
    _check_lists(
        {
            name: tiles_each,
            **{key: values[key] for key in PIXELS.values()},
            **{name: info[name] for name in names},
        }
    )
    videos = []
    for index, num_tiles in enumerate(tiles_each):
        tiles, thumbnails = (
            _clips(
                values[PIXELS[name]][index],
                *(info[f"{key}_{name}"][index] for key in GAZE_KEYS),
                pyramid=pyramid,
                tiled=name == "tiles",
            )
            for name in PIXELS
        )
        if num_tiles < 1 or tiles.gaze.num_clips % num_tiles:
            raise MLLMError(
                f"video {index} has {tiles.gaze.num_clips} clips, which are no whole chunks of "
                f"{num_tiles} tiles"
            )
        videos.append(GazedVideo(tuple(tiles.split(num_tiles)), thumbnails))
    return videos


def _clips(
    frames: Float[Tensor, "B T 3 S S"],
    positions: Int[Tensor, "B N"],
    counts: Int[Tensor, "B T"],
    is_padding: Bool[Tensor, "B N"],
    *,
    pyramid: PatchPyramid,
    tiled: bool,
) -> GazedClips:
    """Gazed patches, cut from whole frames."""
    name = "tiles" if tiled else "thumbnails"
    _check_clips(frames, positions, counts, is_padding, pyramid.side, name)
    if len({len(frames), len(positions), len(counts)}) > 1:
        raise GeometryError(
            f"{len(frames)} clips have gazing_pos of {tuple(positions.shape)}, if_padded_gazing of "
            f"{tuple(is_padding.shape)} and num_gazing_each_frame of {tuple(counts.shape)}"
        )
    rows = [
        Gaze.from_padded(
            {
                "gazing_pos": positions[row : row + 1],
                "if_padded_gazing": is_padding[row : row + 1].bool(),
                "num_gazing_each_frame": counts[row],
            },
            pyramid,
            ordered=False,
        )
        for row in range(len(positions))
    ]
    gaze = Gaze.cat_clips(rows)
    if gaze.num_frames != frames.shape[1]:
        raise GeometryError(
            f"the gaze has {gaze.num_frames} frames per clip, the video {frames.shape[1]}"
        )
    pixels = torch.cat(
        [
            gazed_patches(
                clip, row.ids.to(clip.device), row.frame_of_patch.to(clip.device), pyramid
            )
            for clip, row in zip(frames, rows, strict=True)
        ]
    )
    return GazedClips(gaze.to(pixels.device), pixels, tiled)


def _check_lists(values: Mapping[str, Any]) -> None:
    """Raise MLLMError unless these are lists (or tensors) of one length, an entry per video."""
    for name, entries in values.items():
        is_list = isinstance(entries, Sequence) and not isinstance(entries, str | bytes | range)
        if not is_list and not (is_dense(entries) and entries.ndim):
            raise MLLMError(
                f"{name} must be a list with an entry per video, got {describe_value(entries)}"
            )
    counts = {name: len(entries) for name, entries in values.items()}
    if len(set(counts.values())) > 1:
        raise MLLMError(f"the published dict has one entry per video in each list, got {counts}")


def _check_clips(
    frames: Any, positions: Any, counts: Any, is_padding: Any, side: int, name: str
) -> None:
    """Raise MLLMError unless these are frames of clips and their padded gaze."""
    is_frames = is_dense(frames) and frames.is_floating_point() and frames.ndim == 5
    if not is_frames or tuple(frames.shape[2:]) != (3, side, side):
        raise MLLMError(
            f"{name} must be floats (clips, T, 3, {side}, {side}), as large as the vision tower's "
            f"largest scale, got {shape(frames)}"
        )
    if not (is_integers(positions) and positions.ndim == 2):
        raise MLLMError(
            f"gazing_pos_{name} must be whole numbers (clips, N), got {shape(positions)}"
        )
    if not (is_integers(counts) and counts.ndim == 2):
        raise MLLMError(
            f"num_gazing_each_frame_{name} must be whole numbers (clips, T), got {shape(counts)}"
        )
    is_mask = is_dense(is_padding) and (is_padding.dtype == torch.bool or is_integers(is_padding))
    if not (is_mask and is_padding.shape == positions.shape):
        raise MLLMError(
            f"if_padded_gazing_{name} must be True or False for each of {tuple(positions.shape)} ids, "
            f"got {shape(is_padding)}"
        )
