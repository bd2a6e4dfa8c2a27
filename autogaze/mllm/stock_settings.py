"""Checks of the settings that a checkpoint's files have for frames and prompts."""

from collections.abc import Mapping
from typing import Any

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import MLLMError

_COUNTS = {
    **dict.fromkeys(("patch_size", "merge_size", "temporal_patch_size"), 1),
    **dict.fromkeys(("num_frames", "min_frames", "max_frames", "max_video_tokens"), 0),
    **dict.fromkeys(("min_pixels", "max_pixels", "max_patches", "min_patches"), 0),
}
"""Settings that are whole numbers, and the least they may be."""
_RATES = ("fps", "tokens_per_second", "rescale_factor")
_STATISTICS = ("image_mean", "image_std")
_PARTS = ("size", "crop_size", "video_size", "max_image_size")
"""Settings that hold named sizes, or are one size."""


def check_settings(settings: Any, where: str) -> None:
    """Raise MLLMError for settings of video and image processors that are of other types.

    Args:
        settings: by name; those that are not known here are not looked at.
        where: of which file or object they are.
    """
    if not isinstance(settings, Mapping):
        raise MLLMError(f"{where}: expected settings by name, got {describe_value(settings)}")
    for name, value in settings.items():
        if value is None:
            continue
        if name in _COUNTS and not isinstance(value, Mapping):
            number = whole(value)
            if number is None or not _COUNTS[name] <= number < 2**40:
                _refuse(where, name, f"a whole number of at least {_COUNTS[name]}", value)
        elif name in _RATES and not (is_finite(value) and value > 0):
            _refuse(where, name, "a number above 0", value)
        elif name in _STATISTICS:
            values = list(value) if isinstance(value, list | tuple) else [value]
            right = len(values) in (1, 3) and all(map(is_finite, values))
            if not right or (name == "image_std" and min(values) <= 0):
                _refuse(where, name, "a number for each of red, green and blue", value)
        elif name == "video_sampling":
            check_settings(value, f"{where}, {name}")
        elif name in _PARTS:
            _check_sizes(value, where, name)


def _check_sizes(value: Any, where: str, name: str) -> None:
    sizes = list(value.values()) if isinstance(value, Mapping) else value
    for size in sizes if isinstance(sizes, list | tuple) else [sizes]:
        if size is not None and not (is_finite(size) and 0 <= size < 2**40):
            _refuse(where, name, "sizes in pixels, by name", value)


def _refuse(where: str, name: str, expected: str, value: Any) -> None:
    raise MLLMError(f"{where}: {name} must be {expected}, got {describe_value(value)}")


def check_name(value: Any, what: str) -> None:
    """Raise MLLMError unless a value is text or None."""
    if not isinstance(value, str | None):
        raise MLLMError(f"{what} must be text, got {describe_value(value)}")
