"""Published import path of the model and of `AutoGazeModel`, its part with the weights."""

from autogaze.models.autogaze.gaze_model import GazeModel as AutoGazeModel
from autogaze.models.autogaze.modeling import AutoGaze

__all__ = ["AutoGaze", "AutoGazeModel"]
