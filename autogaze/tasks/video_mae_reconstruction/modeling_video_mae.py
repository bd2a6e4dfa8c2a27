"""Published import path of the reconstruction model (`autogaze.reconstruction.video_mae`)."""

from autogaze.reconstruction.video_mae import VideoMAE, load_video_mae, save_video_mae

__all__ = ["VideoMAE", "load_video_mae", "save_video_mae"]
