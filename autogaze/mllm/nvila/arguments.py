"""Checks of a processor's arguments that say nothing about how it gazes."""

from typing import Any

import numpy as np
import torch

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import MLLMError
from autogaze.utils.normalization import PixelStatistics
from autogaze.utils.tensors import is_dense

MAX_SHUFFLE = 2**12
"""The most patches of a token."""


def as_statistics(mean: Any, std: Any) -> PixelStatistics:
    """Pixel statistics of three numbers each.

    Raises:
        MLLMError: other values, or a deviation that is not above 0.
    """
    means, deviations = _channels(mean, "image_mean"), _channels(std, "image_std")
    if min(deviations) <= 0:
        raise MLLMError(f"image_std must be above 0, got {describe_value(std)}")
    return PixelStatistics(means, deviations)


def _channels(values: Any, name: str) -> tuple[float, float, float]:
    given = values
    if isinstance(values, np.ndarray) or is_dense(values):
        given = values.tolist()
    if not isinstance(given, list | tuple) or len(given) != 3 or not all(map(is_finite, given)):
        raise MLLMError(
            f"{name} must be a number for each of red, green and blue, got {describe_value(values)}"
        )
    red, green, blue = (float(value) for value in given)
    return red, green, blue


def as_shuffle(value: Any) -> int:
    """Patches of a token.

    Raises:
        MLLMError: no whole number from 1 to `MAX_SHUFFLE`.
    """
    number = whole(value)
    if number is None or not 1 <= number <= MAX_SHUFFLE:
        raise MLLMError(
            f"mm_projector_shuffle_num must be a whole number from 1 to {MAX_SHUFFLE:,}, got "
            f"{describe_value(value)}"
        )
    return number


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


def as_device(device: Any) -> torch.device:
    """A device that is there.

    Raises:
        MLLMError: no device, or none of this machine.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise MLLMError(
            f"expected a device such as 'cpu' or 'cuda', got {describe_value(device)}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    if found.type == "meta":
        raise MLLMError(
            "expected a device such as 'cpu' or 'cuda', got 'meta', which holds nothing"
        )
    return found
