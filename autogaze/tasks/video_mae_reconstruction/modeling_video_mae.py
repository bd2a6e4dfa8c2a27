"""Published import path of the reconstruction model (`autogaze.reconstruction.video_mae`)."""

from autogaze.errors import refuse_names
from autogaze.reconstruction.video_mae import VideoMAE, load_video_mae, save_video_mae

__all__ = ["VideoMAE", "load_video_mae", "save_video_mae"]

_MODEL = (
    "the model is VideoMAE here, with the same parameter names and VideoMAE(config)(video, gaze, frames); "
    "VideoMAEReconstruction has the published arguments, losses and outputs"
)

__getattr__ = refuse_names(
    __name__,
    dict.fromkeys(
        (
            "ViTMAEDecoder",
            "ViTMAEEmbeddings",
            "ViTMAEEncoder",
            "ViTMAEForPreTraining",
            "ViTMAEForPreTrainingOutput",
            "ViTMAELayer",
            "ViTMAEModel",
            "ViTMAEModelOutput",
            "ViTMAEPreTrainedModel",
        ),
        _MODEL,
    ),
)
