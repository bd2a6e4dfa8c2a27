"""Known import path: the configurations, which lie in `configuration`."""

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
