"""Published import path of the model's configuration (`autogaze.reconstruction.video_mae`)."""

from autogaze.reconstruction.video_mae import VideoMAEConfig
from autogaze.utils.names import refuse_names

__all__ = ["VideoMAEConfig"]

__getattr__ = refuse_names(
    __name__,
    {
        "ViTMAEConfig": "VideoMAEConfig has its names for the shape and scales; losses are options of "
        "VideoMAEReconstruction(recon_model_config=...)"
    },
)
