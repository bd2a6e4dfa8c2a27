"""Checks of what comes from outside: units, prompts and inputs of a model.

Each raises `MLLMError` that says what came and what is taken.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autogaze.checks import describe_value, is_dense, is_finite, is_one_of, whole
from autogaze.errors import MLLMError
from autogaze.gaze_checks import is_integers, shape

COUNT_LIMIT = 2**31
"""Numbers of tubelets, rows and columns lie below."""


def as_whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """Whole numbers from 0 on, of a list, a tuple, or a flat array or tensor."""
    given = values
    if is_dense(values) or isinstance(values, np.ndarray):
        given = values.tolist()
    numbers = [whole(value) for value in given] if isinstance(given, list | tuple) else [None]
    if not all(number is not None and 0 <= number < COUNT_LIMIT for number in numbers):
        raise MLLMError(f"{what} must be whole numbers of at least 0, got {describe_value(values)}")
    return tuple(numbers)  # type: ignore[arg-type]


def as_count(value: Any, what: str, least: int = 1, most: int = COUNT_LIMIT - 1) -> int:
    """A whole number from `least` to `most`."""
    number = whole(value)
    if number is None or not least <= number <= most:
        bounds = f"of at least {least}" if most == COUNT_LIMIT - 1 else f"from {least} to {most:,}"
        raise MLLMError(f"{what} must be a whole number {bounds}, got {describe_value(value)}")
    return number


def check_tokens(value: Any, what: str = "max_vision_tokens") -> None:
    """Raise `MLLMError` unless a number of tokens is a whole one of at least 1, and no float; or None."""
    if value is not None and (isinstance(value, float) or (whole(value) or 0) < 1):
        raise MLLMError(f"{what} must be a whole number of at least 1, got {describe_value(value)}")


def check_choice(value: Any, known: tuple[str | None, ...], what: str) -> None:
    """Raise `MLLMError` unless a value is one of these names."""
    if not is_one_of(value, known):
        names = " or ".join(repr(name) for name in known if name is not None)
        raise MLLMError(f"{what} must be {names}, got {describe_value(value)}")


def as_channels(value: Any, what: str, *, above_zero: bool = False) -> tuple[float, float, float]:
    """A number for each of red, green and blue, from three of them or one for all."""
    given = value.tolist() if is_dense(value) or isinstance(value, np.ndarray) else value
    numbers = list(given) if isinstance(given, list | tuple) else [given]
    if len(numbers) not in (1, 3) or not all(map(is_finite, numbers)):
        raise MLLMError(
            f"{what} must be a number for each of red, green and blue, got {describe_value(value)}"
        )
    if above_zero and min(numbers) <= 0:
        raise MLLMError(f"{what} must be above 0, got {describe_value(value)}")
    red, green, blue = map(float, numbers * (3 // len(numbers)))
    return red, green, blue


def check_kind(value: Any, kind: type, what: str) -> None:
    """Raise `MLLMError` unless a value is of a class."""
    if not isinstance(value, kind):
        raise MLLMError(f"{what} must be a {kind.__name__}, got {describe_value(value)}")


def as_ids(value: Any, what: str) -> Tensor:
    """A flat tensor of integers, as 64-bit integers on the CPU."""
    if not (is_integers(value) and value.ndim == 1):
        raise MLLMError(f"{what} must be a flat tensor of integers, got {shape(value)}")
    return value.long().cpu()


def check_prompt(input_ids: Any, attention_mask: Any) -> None:
    """Raise `MLLMError` unless token ids and their mask are of one shape (rows, length)."""
    if not (is_integers(input_ids) and input_ids.ndim == 2 and input_ids.numel()):
        raise MLLMError(
            f"input_ids must be a tensor of integers (rows, length), got {shape(input_ids)}"
        )
    if attention_mask is None:
        return
    if not (is_dense(attention_mask) and attention_mask.shape == input_ids.shape):
        raise MLLMError(
            f"attention_mask must be a tensor {tuple(input_ids.shape)} like input_ids, got "
            f"{shape(attention_mask)}"
        )


def as_sizes(value: Any, name: str) -> list[tuple[int, int, int]]:
    """Tubelets, rows and columns of patches of every video or image; none where nothing is given."""
    if value is None:
        return []
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        with suppress(TypeError, ValueError, RuntimeError):  # refused below
            value = torch.as_tensor(value)
    if not (is_integers(value) and value.ndim == 2 and value.shape[1] == 3):
        raise MLLMError(
            f"{name} must be whole numbers (videos or images, 3): tubelets, rows and columns of "
            f"patches; got {shape(value)}"
        )
    return [(frames, rows, columns) for frames, rows, columns in value.tolist()]


def check_pixels(inputs: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise `MLLMError` unless those of these inputs that are given are tensors of floats."""
    for name in names:
        pixels = inputs.get(name)
        if pixels is None:
            continue
        if not (is_dense(pixels) and pixels.is_floating_point() and pixels.ndim):
            raise MLLMError(f"{name} must be a tensor of floats, got {shape(pixels)}")


def refuse_unknown(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `MLLMError` where options are given that there are not."""
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], known, n=1)
    suggestion = f" (did you mean {close[0]}?)" if close else ""
    raise MLLMError(
        f"unknown options: {', '.join(unknown)}{suggestion}; there are {', '.join(known)}"
    )


def refuse_misspelt(given: Iterable[str], known: Sequence[str], template: str) -> None:
    """Raise `MLLMError` where an option that a chat template does not name is nearly a known one."""
    for name in given:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if close and not re.search(rf"\b{re.escape(name)}\b", template):
            raise MLLMError(
                f"unknown option {name}: did you mean {close[0]}? The chat template has none of "
                "that name"
            )


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 video", "2 videos"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def were_given(count: int, noun: str) -> str:
    """What came: "1 video was given"."""
    return f"{counted(count, noun)} {'was' if count == 1 else 'were'} given"
