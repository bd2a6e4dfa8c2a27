"""Checks of what comes from outside: arguments of the processor, and what the model is called with."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from autogaze.checks import describe_value, is_dense, whole
from autogaze.errors import MLLMError
from autogaze.gaze_checks import shape
from autogaze.mllm.checks import check_prompt, counted
from autogaze.mllm.nvila.gazed_video import GazedVideo


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


def is_nothing(value: Any) -> bool:
    """Whether this is None, or a list of nothing, as transformers gives what a prompt has not."""
    return value is None or (isinstance(value, list | tuple) and all(map(is_nothing, value)))


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
