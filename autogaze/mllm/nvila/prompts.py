"""Prompts: the videos of their rows, what these take of them, and the checks of ids and text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense, whole
from autogaze.errors import MLLMError
from autogaze.gaze_checks import shape
from autogaze.mllm.checks import check_prompt, counted
from autogaze.mllm.nvila.gazed_video import GazedVideo
from autogaze.mllm.processor_output import VisualReport
from autogaze.mllm.units import KeptUnits, UnitGrid


def units_of(video: GazedVideo, shuffle: int) -> KeptUnits:
    """A video's tokens as units: as many as it has, out of as many as it would have with every patch.

    Which ones these are does not matter, since positions of NVILA's tokens are counted.
    """
    kept = video.num_tokens(shuffle)
    return KeptUnits(UnitGrid(1, ((1, video.dense_tokens(shuffle)),)), torch.arange(kept), (kept,))


def report_of(video: GazedVideo, units: KeptUnits) -> VisualReport:
    """What became of a video."""
    gaze, grid = video.gaze, video.grid
    side = gaze.pyramid.side
    width, height = (side, side) if grid is None else (grid.content_width, grid.content_height)
    return VisualReport("video", width, height, gaze.num_frames, units.dense_units, units.num_units)


def videos_of_rows(
    placeholders: Sequence[int], videos: Sequence[GazedVideo], shuffle: int
) -> list[list[GazedVideo]]:
    """The videos of every row, in reading order, by the number of its placeholders.

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


def as_text(value: Any, name: str) -> str:
    """Text that is not empty.

    Raises:
        MLLMError: anything else.
    """
    if not isinstance(value, str) or not value:
        raise MLLMError(f"{name} must be text, got {describe_value(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MLLMError(f"{name} is no valid Unicode: {describe_value(value)}") from None
    return value
