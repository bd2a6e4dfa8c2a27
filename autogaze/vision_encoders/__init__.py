"""Gazed vision encoders: transformers vision models that encode gazed patches only."""

from autogaze.utils.normalization import PixelStatistics
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.encode import GazedOutput
from autogaze.vision_encoders.gazed import GazedVisionModel, gazed
from autogaze.vision_encoders.registry import list_encoders, register_encoder

__all__ = [
    "EncoderAdapter",
    "GazedOutput",
    "GazedVisionModel",
    "PixelStatistics",
    "gazed",
    "list_encoders",
    "register_encoder",
]
