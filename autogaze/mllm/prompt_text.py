"""Prompts as text or conversations: the videos and images they name, and the rows they become.

The text between blocks of units is tokenised as it is in the dense prompt: each block is written as
one token, which tokenizers split off as they split off a run of them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from autogaze.checks import describe_value, without_file_scheme
from autogaze.errors import MLLMError, first_line
from autogaze.mllm.checks import counted, were_given
from autogaze.mllm.gazed_visual import GazedImage, GazedVisual
from autogaze.mllm.processor_adapter import Expansion, ProcessorAdapter
from autogaze.mllm.prompt import (
    Context,
    Kind,
    Row,
    SequencePositions,
    VisualBlock,
    sequence_lengths,
)

Message = Mapping[str, Any]


def as_batch(conversation: Sequence[Any]) -> tuple[list[Sequence[Message]], bool]:
    """Conversations, and whether they came as a batch.

    Raises:
        MLLMError: anything but messages, each a dict with a role and a content.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise MLLMError("expected a conversation, which is a list of messages, or a list of them")
    is_batch = isinstance(conversation[0], list | tuple)
    conversations = list(conversation) if is_batch else [conversation]
    for messages in conversations:
        if not isinstance(messages, list | tuple) or not messages:
            raise MLLMError(
                f"expected a conversation, a list of messages, got {describe_value(messages)}"
            )
        for message in messages:
            _check_message(message)
    return conversations, is_batch


def _check_message(message: Any) -> None:
    """Raise MLLMError unless this is a dict with a role and a content: text, or parts of it."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise MLLMError(
            'a message is a dict such as {"role": "user", "content": "What moves?"}, got '
            f"{describe_value(message)}"
        )
    content = message.get("content")
    if isinstance(content, str | None):  # none where tools are called
        return
    if not isinstance(content, list | tuple):
        raise MLLMError(
            f"the content of a message is text or a list of parts, got {describe_value(content)}"
        )
    for part in content:
        if isinstance(part, str):
            continue
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise MLLMError(
                'a part of a message is a dict such as {"type": "text", "text": "What moves?"}, got '
                f"{describe_value(part)}"
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise MLLMError(
                f'the "text" of a part must be text, got {describe_value(part.get("text"))}'
            )


def visuals_of(conversations: Sequence[Sequence[Message]]) -> dict[Kind, list[list[Any]]]:
    """Videos and images that messages hold, in reading order; a list per conversation.

    Raises:
        MLLMError: a video or image without a file or frames, or frames in files that are no images.
    """
    found: dict[Kind, list[list[Any]]] = {"video": [], "image": []}
    for messages in conversations:
        for of_kind in found.values():
            of_kind.append([])
        for kind, part in _parts(messages):
            keys = (kind, "url", "path")
            value = next((part[key] for key in keys if part.get(key) is not None), None)
            if value is None:
                raise MLLMError(
                    f"a message has a {kind} without its file: write "
                    f'{{"type": "{kind}", "{kind}": path}}'
                )
            found[kind][-1].append(_frames(value) if kind == "video" else local(value))
    return found


def _frames(video: Any) -> Any:
    """The video of a message, whose frames may be the files of images."""
    if not isinstance(video, list | tuple) or len(video) < 2:
        return local(video)
    frames = [_frame(one) for one in video]
    sizes = {frame.size for frame in frames if isinstance(frame, Image.Image)}
    if len(sizes) > 1:
        named = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise MLLMError(f"the frames of a video are of one size, got images of {named} pixels")
    return frames


def _frame(frame: Any) -> Any:
    """A decoded frame as it is, or the image of a file."""
    if not isinstance(frame, str | Path):
        return frame
    path = local(frame)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise MLLMError(
            f"{path}: cannot be read as an image: {error}; a list as the video of a message holds its "
            "frames, and each video is a part of its own"
        ) from error


def has_video(conversations: Sequence[Sequence[Message]]) -> bool:
    """Whether a message has a video, with a file or not."""
    return any(kind == "video" for messages in conversations for kind, _ in _parts(messages))


def _parts(messages: Sequence[Message]) -> Iterator[tuple[Kind, Mapping[str, Any]]]:
    """The videos and images among the parts of messages."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list | tuple) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "video" or kind == "image":
                yield kind, part


def as_list(values: Any, kind: Kind) -> list[Any]:
    """Videos or images as a flat list, from one, a list, or a list per prompt."""
    if values is None:
        return []
    if not isinstance(values, list | tuple):
        if isinstance(values, np.ndarray | Tensor) and values.ndim == (5 if kind == "video" else 4):
            return list(values)
        return [local(values)]
    if kind == "video" and values and all(map(_is_frame, values)):
        return [list(values)]
    return [one for value in values for one in as_list(value, kind)]


def counts_per_prompt(values: Any, kind: Kind) -> list[int] | None:
    """How many videos or images every prompt has, where they came in a list per prompt."""
    if not isinstance(values, list | tuple) or not values:
        return None
    if not all(isinstance(value, list | tuple) for value in values):
        return None
    if kind == "video" and any(value and all(map(_is_frame, value)) for value in values):
        return None  # a video of decoded frames
    return [len(as_list(value, kind)) for value in values]


def _is_frame(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image)


def local(value: Any) -> Any:
    """A path without `file://`; others as they are.

    Raises:
        MLLMError: the address of a file that is elsewhere.
    """
    if not isinstance(value, str):
        return value
    if value.startswith(("http://", "https://")):
        raise MLLMError(f"{value}: videos and images are read from local files; download it first")
    return without_file_scheme(value)


Place = tuple[Kind, int]
"""A kind, and the number of a video or image among those of its kind."""


def as_texts(text: Any) -> list[str]:
    """The prompts of a call, from one or several.

    Raises:
        MLLMError: anything else, or none.
    """
    try:
        texts = [text] if isinstance(text, str) else list(text)
    except TypeError:
        texts = []
    if isinstance(text, Mapping | Set):  # keys, or in no order
        texts = []
    if not texts or not all(isinstance(row, str) for row in texts):
        raise MLLMError(f"text must be a prompt or a list of prompts, got {describe_value(text)}")
    return texts


def places_of(
    texts: Sequence[str], tokens: Mapping[Kind, str], given: Mapping[Kind, int]
) -> list[list[Place]]:
    """Which videos and images every prompt names, in their order.

    Args:
        texts: of the prompts.
        tokens: what stands for a video and for an image in them.
        given: how many there are.

    Raises:
        MLLMError: more or fewer placeholders than videos or images.
    """
    kinds = {token: kind for kind, token in tokens.items()}
    counts: dict[Kind, int] = dict.fromkeys(tokens, 0)
    places: list[list[Place]] = []
    for text in texts:
        row: list[Place] = []
        for found in re.findall("|".join(map(re.escape, kinds)), text):
            kind = kinds[found]
            row.append((kind, counts[kind]))
            counts[kind] += 1
        places.append(row)
    for kind in given.keys() | counts.keys():
        named, there = counts.get(kind, 0), given.get(kind, 0)
        if named != there:
            example = "this family takes none"
            if kind in tokens:
                example = f"write {tokens[kind]} where each belongs"
            raise MLLMError(
                f"{were_given(there, kind)}, the prompts have "
                f"{counted(named, 'placeholder')} for {kind}s: "
                f"{example}, or use apply_chat_template"
            )
    return places


def check_per_prompt(
    places: Sequence[Sequence[Place]], counts: Sequence[int] | None, kind: Kind
) -> None:
    """Raise `MLLMError` unless every prompt names as many videos or images as its own list holds.

    `counts` is None where they came in one list for all prompts.
    """
    if counts is None:
        return
    if len(counts) != len(places):
        raise MLLMError(
            f"{kind}s came in {counted(len(counts), 'list')} for {counted(len(places), 'prompt')}: "
            f"give one list per prompt, or one flat list"
        )
    for number, (row, there) in enumerate(zip(places, counts, strict=True)):
        named = sum(place[0] == kind for place in row)
        if named != there:
            raise MLLMError(
                f"prompt {number} has {counted(named, 'placeholder')} for {kind}s, and "
                f"{were_given(there, kind)} for it"
            )


def per_video(values: Any, places: Sequence[Sequence[Place]], what: str) -> list[Any]:
    """A value for every video, from one, a flat list, or a list per prompt; None where none is given.

    Raises:
        MLLMError: more or fewer than there are videos, of all prompts or of one.
    """
    counts = [sum(kind == "video" for kind, _ in row) for row in places]
    if values is None:
        return [None] * sum(counts)
    given = list(values) if isinstance(values, list | tuple) else [values]
    if given and all(isinstance(value, list | tuple) for value in given):
        found = [len(value) for value in given]
        if found != counts:
            raise MLLMError(
                f"{what} came in lists of {', '.join(map(str, found))}, the prompts have "
                f"{', '.join(map(str, counts))} videos: give a list per prompt, or a flat list"
            )
        return [one for value in given for one in value]
    if len(given) != sum(counts):
        raise MLLMError(
            f"{what} of {counted(len(given), 'video')} was given for {counted(sum(counts), 'video')}"
        )
    return given


def write_rows(
    texts: Sequence[str],
    places: Sequence[Sequence[Place]],
    expansions: Mapping[Place, Expansion],
    adapter: ProcessorAdapter,
    options: Mapping[str, Any],
) -> list[Row]:
    """Rows of prompts, in which every video's and image's expansion stands in place of its placeholder.

    Raises:
        MLLMError: the tokenizer does not keep placeholders whole.
    """
    ids = {kind: adapter.unit_id(kind) for kind in {place[0] for place in expansions}}
    rows: list[Row] = []
    visual = 0
    for text, row_places in zip(texts, places, strict=True):
        expanded = ""
        rest = text
        for place in row_places:
            before, _, rest = rest.partition(adapter.placeholder(place[0]))
            expanded += before + expansions[place].text
        expanded += rest
        blocks = []
        for kind, number in row_places:
            for first, end, trailing in expansions[kind, number].blocks:
                blocks.append(VisualBlock(visual, first, end, ids[kind], trailing))
            visual += 1
        rows.append(row_of(adapter.stock.tokenizer, expanded, blocks, **options))
    return rows


def row_of(tokenizer: Any, text: str, blocks: Sequence[VisualBlock], **options: Any) -> Row:
    """Token ids of a text with one token of a unit per block, as text and blocks.

    Raises:
        MLLMError: the tokenizer does not keep these tokens whole, or cannot read the text, as where
            it is no valid Unicode; or there is none.
    """
    try:
        tokens = torch.tensor(list(tokenizer(text, **options)["input_ids"])).long()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise MLLMError(
            f"the tokenizer cannot read the prompt {describe_value(text)}: {first_line(error)}"
        ) from error
    if not len(tokens):
        raise MLLMError("a prompt of the batch is empty")
    units = torch.tensor(sorted({block.token for block in blocks}), dtype=torch.long)
    where = torch.isin(tokens, units).nonzero()[:, 0].tolist()
    if len(where) != len(blocks) or any(
        int(tokens[at]) != block.token for at, block in zip(where, blocks, strict=True)
    ):
        raise MLLMError(
            f"the tokenizer wrote {len(where)} placeholders where the prompt has {len(blocks)} "
            "blocks of units: its special tokens are not those of the model"
        )
    row: list[torch.Tensor | VisualBlock] = []
    start = 0
    for at, block in zip(where, blocks, strict=True):
        if at > start:
            row.append(tokens[start:at])
        row.append(block)
        start = at + 1
    if start < len(tokens):
        row.append(tokens[start:])
    return row


def padding_id(tokenizer: Any) -> int:
    """Id that rows are padded with. The mask hides it, so a tokenizer without one may take any."""
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(pad for pad in pads if pad is not None)


def check_before_reading(
    context: Context,
    texts: Sequence[str],
    places: Sequence[Sequence[Place]],
    opened: Mapping[Place, GazedVisual | GazedImage],
    adapter: ProcessorAdapter,
    options: Mapping[str, Any],
) -> None:
    """Check prompts whose frames are sampled and not decoded yet.

    Only those with one video, of families whose positions are those of a sequence. Others place
    units by time, row and column, and take many more frames than their processors sample.

    Raises:
        MLLMError: a prompt that is too long.
    """
    if not isinstance(adapter.rule(()), SequencePositions):
        return
    for text, row in zip(texts, places, strict=True):
        video = opened[row[0]] if len(row) == 1 else None
        if not isinstance(video, GazedVisual) or video.kind != "video":
            continue  # the model checks it
        expansions = {row[0]: video.expected_expansion()}
        (written,) = write_rows([text], [row], expansions, adapter, options)
        length, per_frame = sequence_lengths(written, video.grid)
        context.check(length, frames=video.grid.tubelets, per_frame=per_frame)
