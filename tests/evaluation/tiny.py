"""Vision encoders so small that a benchmark of them takes no time."""

from pathlib import Path
from typing import Any

import torch
import transformers as tf

from autogaze.evaluation.encoders import MeasuredEncoder, measured
from autogaze.utils.device import Place

PLACE = Place(torch.device("cpu"), torch.float32)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def siglip(**options: Any) -> tf.SiglipVisionModel:
    config = {"image_size": 64, "patch_size": 16, **SIZES, **options}
    torch.manual_seed(0)
    return tf.SiglipVisionModel(tf.SiglipVisionConfig(**config))


def encoder(model: Any = None, side: int = 64, **options: Any) -> MeasuredEncoder:
    """An encoder of 64-pixel frames: 1 + 4 + 16 = 21 patches of 16 pixels."""
    scales = (16, 32, side)
    return measured("tiny", model or siglip(image_size=side), PLACE, scales=scales, **options)


def saved(folder: Path, side: int = 64, **options: Any) -> str:
    """A checkpoint of a tiny SigLIP."""
    siglip(image_size=side, **options).save_pretrained(folder)
    return str(folder)
