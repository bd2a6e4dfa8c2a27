"""The learned selector under the names AutoGaze's users import.

They are imported when they are first used: those of transformers' models take seconds and 170 MiB.
Where transformers' Auto classes are there already, they know the model from here on.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.models.autogaze.configuration import (
        AutoGazeConfig,
        ConnectorConfig,
        GazeDecoderConfig,
        GazeModelConfig,
        VisionModelConfig,
    )
    from autogaze.models.autogaze.modeling import AutoGaze
    from autogaze.models.autogaze.processing import AutoGazeImageProcessor

__all__ = [
    "AutoGaze",
    "AutoGazeConfig",
    "AutoGazeImageProcessor",
    "ConnectorConfig",
    "GazeDecoderConfig",
    "GazeModelConfig",
    "VisionModelConfig",
]


if "transformers.models.auto.modeling_auto" in sys.modules:  # most of that has been paid then
    from autogaze.models.autogaze import modeling, processing  # noqa: F401


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # `modeling` makes the Auto classes know the model.
    from autogaze.models.autogaze import configuration, modeling, processing

    for module in (configuration, modeling, processing):
        globals().update({key: vars(module)[key] for key in __all__ if key in vars(module)})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
