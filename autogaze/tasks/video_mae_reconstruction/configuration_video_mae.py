"""Published import path of the model's configuration (`autogaze.reconstruction.video_mae`)."""

from autogaze.errors import refuse_names
from autogaze.reconstruction.video_mae import VideoMAEConfig

__all__ = ["VideoMAEConfig"]

__getattr__ = refuse_names(
    __name__,
    {
        "ViTMAEConfig": "VideoMAEConfig has its names for the shape and scales; losses are options of "
        "VideoMAEReconstruction(recon_model_config=...)"
    },
)
