"""Known import path: the model's configuration, which lies in `autogaze.reconstruction.video_mae`."""

from autogaze.reconstruction.video_mae import VideoMAEConfig

__all__ = ["VideoMAEConfig"]
