"""Conversations of chat templates: their videos and images in order, and their text."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.errors import MLLMError
from autogaze.mllm.dense_prompt import Kind

Message = Mapping[str, Any]

_KEYS: dict[Kind, tuple[str, ...]] = {
    "video": ("video", "url", "path"),
    "image": ("image", "url", "path"),
}


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
            value = next((part[key] for key in _KEYS[kind] if part.get(key) is not None), None)
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
            if kind in _KEYS:
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
    if value.startswith("file://"):
        return value.removeprefix("file://")
    if value.startswith(("http://", "https://")):
        raise MLLMError(f"{value}: videos and images are read from local files; download it first")
    return value
