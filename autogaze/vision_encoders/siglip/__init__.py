"""SigLIP with the classes that AutoGaze's users import."""

from autogaze.vision_encoders.siglip.configuration_siglip import SiglipConfig, SiglipVisionConfig
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel

__all__ = ["SiglipConfig", "SiglipVisionConfig", "SiglipVisionModel"]
