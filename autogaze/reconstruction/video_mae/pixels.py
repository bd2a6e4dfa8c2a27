"""Pixels of a VideoMAE: by which statistics the frames that it was trained on were normalised.

A checkpoint says so in `preprocessor_config.json`, as transformers' video processors read it. ViT-MAE's
files name ImageNet's mean and deviation and no rescaling; the published training takes them with the
defaults of `VivitImageProcessor`, which rescales to [-1, 1] first. So the published VideoMAE, whose file
says nothing, saw

    (rgb / 127.5 - 1 - mean) / std,    rgb in [0, 255]

about -6.5 to 2.6, and its `l1` is twice that of [0, 1] normalised by the same mean and deviation.
"""

from pathlib import Path
from typing import Any

from autogaze.checks import describe_value, is_finite
from autogaze.errors import CheckpointError
from autogaze.utils.checkpoints import config_file, read_json
from autogaze.utils.normalization import IMAGENET, PixelStatistics

PROCESSOR = "preprocessor_config.json"

PUBLISHED_PIXELS = PixelStatistics.of_rescaled(IMAGENET.mean, IMAGENET.std, 1 / 127.5, offset=True)
"""Of the published VideoMAE, and of every ViT-MAE in the published training."""

_HALF = (0.5, 0.5, 0.5)


def read_statistics(checkpoint: Path) -> PixelStatistics | None:
    """The statistics of a checkpoint's `preprocessor_config.json`; None where there is no such file.

    Args:
        checkpoint: a folder, or a file that `preprocessor_config.json` may lie beside.

    Raises:
        CheckpointError: the file cannot be read, or holds values that make no sense.
    """
    file = config_file(checkpoint).with_name(PROCESSOR)
    return _read(file) if file.is_file() else None


def processor_settings(statistics: PixelStatistics, side: int) -> dict[str, Any]:
    """The content of a `preprocessor_config.json` for square frames of this side."""
    return {
        "image_processor_type": "VivitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "offset": False,
        "do_normalize": True,
        "image_mean": list(statistics.mean),
        "image_std": list(statistics.std),
    }


def _read(file: Path) -> PixelStatistics:
    """The statistics of RGB in [0, 1]; what the file leaves out is as in `VivitImageProcessor`."""
    given = {name: value for name, value in read_json(file).items() if value is not None}
    factor, offset = 1.0, False  # pixels as they are, 0 to 255
    if _flag(file, given, "do_rescale"):
        factor, offset = given.get("rescale_factor", 1 / 127.5), _flag(file, given, "offset")
        if not (is_finite(factor) and factor > 0):
            raise _wrong(file, "rescale_factor", "a number above 0", factor)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(file, given, "do_normalize"):
        mean, std = (_channels(file, given, name) for name in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise _wrong(file, "image_std", "numbers above 0", list(std))
    return PixelStatistics.of_rescaled(mean, std, float(factor), offset=offset)


def _flag(file: Path, given: dict[str, Any], name: str) -> bool:
    value = given.get(name, True)
    if not isinstance(value, bool):
        raise _wrong(file, name, "true or false", value)
    return value


def _channels(file: Path, given: dict[str, Any], name: str) -> tuple[float, float, float]:
    value = given.get(name, _HALF)
    channels = [value] * 3 if is_finite(value) else value
    if not isinstance(channels, list | tuple) or len(channels) != 3:
        raise _wrong(file, name, "one number or three", value)
    if not all(is_finite(number) for number in channels):
        raise _wrong(file, name, "finite numbers", value)
    red, green, blue = (float(number) for number in channels)
    return red, green, blue


def _wrong(file: Path, name: str, wanted: str, value: object) -> CheckpointError:
    return CheckpointError(f"{file}: {name} must be {wanted}, got {describe_value(value)}")
