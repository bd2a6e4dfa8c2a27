"""Published import path of the model, which is defined in `modeling`."""

from autogaze.models.autogaze.modeling import AutoGaze

__all__ = ["AutoGaze"]
