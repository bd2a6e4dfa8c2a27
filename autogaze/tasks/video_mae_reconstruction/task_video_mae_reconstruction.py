"""Published import path of the task, which is defined in the package itself."""

from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction

__all__ = ["VideoMAEReconstruction"]
