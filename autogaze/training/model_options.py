"""What the `model` group can hold, part by part."""

import inspect
from collections.abc import Mapping
from typing import Any

from autogaze.errors import TrainingError
from autogaze.models.autogaze.configuration import (
    AutoGazeConfig,
    ConnectorConfig,
    GazeDecoderConfig,
    GazeModelConfig,
    VisionModelConfig,
)
from autogaze.training.reading import unknown_option

Known = Mapping[str, "Known | None"]
"""Names of options; those of a group with what is in it, any other with None."""


def check_model_options(options: Mapping[str, Any]) -> None:
    """Refuse options of the group `model` that mean nothing.

    Config files of checkpoints may hold names that mean nothing here; what a user writes
    may not, at any depth.

    Raises:
        TrainingError: an option that does not exist, or a value where a group must be.
    """
    _check(options, KNOWN, "model")


def _check(options: Mapping[str, Any], known: Known, group: str) -> None:
    for name, value in options.items():
        if name not in known:
            raise TrainingError(unknown_option(group, str(name), known))
        inner = known[name]
        if inner is None or value is None:
            continue
        if not isinstance(value, Mapping):
            raise TrainingError(f"{group}.{name} must be a group of options, got {value!r}")
        _check(value, inner, f"{group}.{name}")


def _plain(*names: str) -> dict[str, Known | None]:
    return dict.fromkeys(names)


def _arguments(kind: type) -> dict[str, Known | None]:
    """Of a configuration's class, but for what it takes and ignores."""
    taken = inspect.signature(kind).parameters.values()
    return _plain(*(one.name for one in taken if one.kind is not inspect.Parameter.VAR_KEYWORD))


_STRATEGIES = _plain("sample_strategy_during_training", "sample_strategy_during_inference")
_RATIO_ENDS = ("gazing_ratio_min", "gazing_ratio_max")
_LOSS_ENDS = ("task_loss_requirement_min", "task_loss_requirement_max")

KNOWN: Known = {
    **_arguments(AutoGazeConfig),
    "gazing_ratio_config": {
        **_STRATEGIES,
        "fixed": _plain("gazing_ratio"),
        "uniform": _plain(*_RATIO_ENDS),
        "exponential": _plain(*_RATIO_ENDS, "lambda"),
    },
    "gazing_ratio_each_frame_config": {
        **_STRATEGIES,
        "uniform": {},
        "dirichlet": _plain("alpha"),
        "self": {},
    },
    "task_loss_requirement_config": {
        **_STRATEGIES,
        "fixed": _plain("task_loss_requirement"),
        "uniform": _plain(*_LOSS_ENDS),
    },
    "gaze_model_config": {
        **_arguments(GazeModelConfig),
        "vision_model_config": _arguments(VisionModelConfig),
        "connector_config": _arguments(ConnectorConfig),
        "gaze_decoder_config": _arguments(GazeDecoderConfig),
    },
}
"""All of it."""
