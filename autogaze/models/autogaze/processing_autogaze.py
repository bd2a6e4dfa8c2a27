"""Known import path: the image processor, which lies in `processing`."""

from autogaze.models.autogaze.processing import AutoGazeImageProcessor

__all__ = ["AutoGazeImageProcessor"]
