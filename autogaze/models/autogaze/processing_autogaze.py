"""Published import path of the image processor, which is defined in `processing`."""

from autogaze.models.autogaze.processing import AutoGazeImageProcessor

__all__ = ["AutoGazeImageProcessor"]
