"""Published import path of the model's configuration (`autogaze.reconstruction.video_mae`)."""

from autogaze.reconstruction.video_mae import VideoMAEConfig

__all__ = ["VideoMAEConfig"]
