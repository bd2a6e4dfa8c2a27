"""Known import path: the model, and `AutoGazeModel`, its part that carries the weights."""

from autogaze.models.autogaze.gaze_model import GazeModel as AutoGazeModel
from autogaze.models.autogaze.modeling import AutoGaze

__all__ = ["AutoGaze", "AutoGazeModel"]
