"""VideoMAE, the learned reconstruction model."""

from autogaze.reconstruction.video_mae.checkpoint import load_video_mae, save_video_mae
from autogaze.reconstruction.video_mae.configuration import VideoMAEConfig
from autogaze.reconstruction.video_mae.modeling import VideoMAE

__all__ = ["VideoMAE", "VideoMAEConfig", "load_video_mae", "save_video_mae"]
