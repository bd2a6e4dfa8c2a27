"""The learned selector under the names AutoGaze's users import."""

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
