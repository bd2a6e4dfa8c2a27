"""SigLIP, and the classes that AutoGaze's users import."""

from autogaze.vision_encoders.siglip.configuration import SiglipVisionConfig
from autogaze.vision_encoders.siglip.modeling import SiglipVisionModel

__all__ = ["SiglipVisionConfig", "SiglipVisionModel"]
