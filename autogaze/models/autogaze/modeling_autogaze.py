"""Published import path of the model and of `AutoGazeModel`, its part with the weights."""

from autogaze.errors import refuse_names
from autogaze.models.autogaze.gaze_model import Connector
from autogaze.models.autogaze.gaze_model import GazeModel as AutoGazeModel
from autogaze.models.autogaze.gaze_model import VisionStem as ShallowVideoConvNet
from autogaze.models.autogaze.modeling import AutoGaze

__all__ = ["AutoGaze", "AutoGazeModel", "Connector", "ShallowVideoConvNet"]

_HOOK = (
    "rules of what may be chosen are set at gazing_model.hook (autogaze.models.autogaze.hook), and "
    "that no patch is chosen twice and none is EOS always holds"
)

__getattr__ = refuse_names(
    __name__,
    {
        "AutoGazeOutput": "AutoGaze returns autogaze.models.autogaze.output.AutoGazeOutput, whose "
        "log_action_probs and task_loss_prediction are the scores of gazes",
        "Conv3dBlockForStreaming": "the convolutions of ShallowVideoConvNet are "
        "autogaze.models.autogaze.gaze_model.CausalConv3d, with other arguments",
        "NoEosTokenLogitsProcessor": _HOOK,
        "NoRepeatTokensLogitsProcessor": _HOOK,
    },
)
