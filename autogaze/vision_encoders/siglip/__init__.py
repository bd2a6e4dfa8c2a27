"""SigLIP with the classes that AutoGaze's users import."""

from autogaze.vision_encoders.siglip.modeling import SiglipVisionConfig, SiglipVisionModel

__all__ = ["SiglipVisionConfig", "SiglipVisionModel"]
