"""Published import path of the configurations, which are defined in `configuration`."""

from autogaze.models.autogaze.configuration import (
    AutoGazeConfig,
    ConnectorConfig,
    GazeDecoderConfig,
    GazeModelConfig,
    VisionModelConfig,
)

__all__ = [
    "AutoGazeConfig",
    "ConnectorConfig",
    "GazeDecoderConfig",
    "GazeModelConfig",
    "VisionModelConfig",
]
