"""Known import path: the model, which lies in `modeling`."""

from autogaze.models.autogaze.modeling import AutoGaze

__all__ = ["AutoGaze"]
