"""Checks of what a model is called with: ids, mask, videos, and the keys of the published dict."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.checks import describe_value, whole
from autogaze.errors import MLLMError
from autogaze.gaze_checks import is_integers, shape
from autogaze.mllm.checks import check_prompt, counted
from autogaze.mllm.nvila.gazed_video import GazedVideo
from autogaze.utils.tensors import is_dense


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


def videos_of_rows(
    placeholders: Sequence[int], videos: Sequence[GazedVideo], shuffle: int
) -> list[list[GazedVideo]]:
    """The videos of every row, in reading order.

    Args:
        placeholders: of every row.
        videos: of all rows.
        shuffle: patches of a frame in a token.

    Raises:
        MLLMError: a row has other placeholders than its videos have tokens, so that features of one
            video would stand in the place of another.
    """
    tokens = [video.num_tokens(shuffle) for video in videos]
    if sum(placeholders) != sum(tokens):
        raise MLLMError(
            f"the prompts have {sum(placeholders):,} placeholders, but {counted(len(videos), 'video')} "
            f"take {sum(tokens):,} tokens; let the processor make both in one call"
        )
    rows: list[list[GazedVideo]] = []
    taken = 0
    for row, wanted in enumerate(placeholders):
        first, held = taken, 0
        while held < wanted:
            held += tokens[taken]
            taken += 1
        if held != wanted:
            raise MLLMError(
                f"row {row} has {wanted:,} placeholders, but the videos from number {first} on take "
                f"{' + '.join(f'{count:,}' for count in tokens[first:taken])} tokens; give "
                "gazed_videos in reading order over the rows, as the processor returns them"
            )
        rows.append(list(videos[first:taken]))
    return rows


def as_token(video_token_id: Any, configured: int) -> int:
    """The id of the token that stands for a video: the one given, else the configuration's.

    Raises:
        MLLMError: no whole number, or there is none.
    """
    token = whole(configured if video_token_id is None else video_token_id)
    if token is None or token >= 2**63:
        raise MLLMError(
            f"video_token_id must be the id of a token, got {describe_value(video_token_id)}; give "
            "video_token_id=processor.video_token_id"
        )
    if token < 0:
        raise MLLMError(
            "which token stands for the video? config.video_token_id is not set; give "
            "video_token_id=processor.video_token_id"
        )
    return token


def check_ids(input_ids: Int[Tensor, "B L"], vocabulary: int) -> None:
    """Raise MLLMError for ids that the LLM has no embedding for."""
    low, high = (int(value) for value in input_ids.aminmax())
    if low < 0 or high >= vocabulary:
        raise MLLMError(
            f"input_ids hold {low if low < 0 else high}, but the LLM knows the ids from 0 to "
            f"{vocabulary - 1}; take the tokenizer that belongs to it"
        )


def check_text(input_ids: Any, attention_mask: Any) -> None:
    """Raise MLLMError unless a prompt without videos is one of tensors.

    Its mask may be longer, where a cache holds what stood before.
    """
    check_prompt(input_ids, None)
    if isinstance(attention_mask, Mapping) or attention_mask is None:
        return  # one mask per kind of layer, as the LLM takes it
    whole_rows = is_dense(attention_mask) and attention_mask.ndim in (2, 4)
    if not whole_rows or len(attention_mask) != len(input_ids):
        raise MLLMError(
            f"attention_mask must be a tensor (rows, length) of {len(input_ids)} rows like "
            f"input_ids, got {shape(attention_mask)}"
        )


def check_lists(values: Mapping[str, Any]) -> None:
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


def check_clips(
    frames: Any, positions: Any, counts: Any, is_padding: Any, side: int, name: str
) -> None:
    """Raise MLLMError unless these are frames of clips and their padded gaze.

    Args:
        frames: floats (clips, T, 3, side, side).
        positions: whole numbers (clips, N).
        counts: whole numbers (clips, T).
        is_padding: (clips, N).
        side: pixels.
        name: "tiles" or "thumbnails", for errors.
    """
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
