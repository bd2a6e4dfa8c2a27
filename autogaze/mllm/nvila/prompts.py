"""Prompts as token ids: the places of their videos, their expansion to a batch, and their checks."""

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
from autogaze.mllm.processor_output import GazedReport, PrepareTimes, VisualReport
from autogaze.mllm.prompt_text import Place, check_per_prompt, token_ids

Prompt = list[int]


def tokenized(text: Any, tokenizer: Any) -> list[Prompt]:
    """Token ids of a prompt or a list of prompts.

    Raises:
        MLLMError: anything else, or a prompt without tokens.
    """
    prompts = [text] if isinstance(text, str) else text
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise MLLMError(f"text must be a prompt or a list of prompts, got {describe_value(text)}")
    if not prompts:
        raise MLLMError("no prompts: got an empty list")
    tokens = [token_ids(tokenizer, prompt) for prompt in prompts]
    empty = [number for number, prompt in enumerate(tokens) if not prompt]
    if empty:
        raise MLLMError(f"prompt {empty[0]} is empty")
    return tokens


def video_places(
    prompts: Sequence[Prompt], token: int, given: int, per_prompt: Sequence[int] | None
) -> list[list[Place]]:
    """The videos of every prompt, in reading order; `token` stands once for each of those `given`.

    Raises:
        MLLMError: other numbers of placeholders than of videos, in all or `per_prompt`.
    """
    counts = [prompt.count(token) for prompt in prompts]
    if sum(counts) != given:
        each = f" ({', '.join(map(str, counts))} in the {len(counts)} prompts)"
        raise MLLMError(
            f"the text has {sum(counts)} placeholders of videos{each if len(counts) > 1 else ''}, "
            f"but {given} videos were given; write it once where each video belongs, as "
            "processor.prompt(question) does for one"
        )
    number = iter(range(given))
    places: list[list[Place]] = [[("video", next(number)) for _ in range(own)] for own in counts]
    check_per_prompt(places, per_prompt, "video")
    return places


def expanded(
    prompts: Sequence[Prompt], token: int, videos: Sequence[GazedVideo], shuffle: int
) -> list[Prompt]:
    """Prompts with as many placeholders as every video has tokens."""
    counts = iter([video.num_tokens(shuffle) for video in videos])
    return [
        [each for each in prompt for _ in range(next(counts) if each == token else 1)]
        for prompt in prompts
    ]


def padded(
    prompts: Sequence[Prompt], tokenizer: Any
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Ids padded on the left, and the attention mask."""
    longest = max(map(len, prompts))
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = tokenizer.eos_token_id or 0  # it is masked
    ids = torch.tensor([[padding] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def report_of(
    videos: Sequence[GazedVideo],
    places: Sequence[Sequence[Place]],
    prompts: Sequence[Prompt],
    shuffle: int,
    seconds: PrepareTimes,
) -> GazedReport:
    """What prompts cost, as they are written (`expanded`); a unit is a token of the LLM."""
    visuals = []
    for video in videos:
        gaze, grid = video.gaze, video.grid
        side = gaze.pyramid.side
        width, height = (side, side) if grid is None else (grid.content_width, grid.content_height)
        dense, kept = video.dense_tokens(shuffle), video.num_tokens(shuffle)
        visuals.append(VisualReport("video", width, height, gaze.num_frames, dense, kept))
    dropped = [visual.dense_units - visual.kept_units for visual in visuals]
    tokens = [len(prompt) for prompt in prompts]
    dense_tokens = [
        length + sum(dropped[number] for _, number in own)
        for length, own in zip(tokens, places, strict=True)
    ]
    return GazedReport(tuple(visuals), tuple(tokens), tuple(dense_tokens), seconds)


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
