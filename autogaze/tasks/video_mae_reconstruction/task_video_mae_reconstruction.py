"""Known import path: the task, which lies in the package itself."""

from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

__all__ = ["VideoMAEReconstruction"]
