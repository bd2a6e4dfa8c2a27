"""`VideoMAEReconstruction` of the published interface; our own task is `autogaze.tasks.video_mae`."""

from autogaze.tasks.video_mae_reconstruction.task_video_mae_reconstruction import (
    VideoMAEReconstruction,
)

__all__ = ["VideoMAEReconstruction"]
