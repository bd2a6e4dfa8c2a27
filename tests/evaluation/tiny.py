"""Vision encoders so small that a benchmark of them takes no time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from autogaze import Gaze, PatchPyramid
from autogaze.evaluation.encode import EncodeReport, bench_encode
from autogaze.evaluation.encoders import MeasuredEncoder, measured
from autogaze.evaluation.timing import MemoryGauge
from autogaze.utils.device import DeviceOptions

DEVICE_OPTIONS = DeviceOptions(torch.device("cpu"), torch.float32)
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
    return measured(
        "tiny", model or siglip(image_size=side), DEVICE_OPTIONS, scales=scales, **options
    )


def saved(folder: Path, side: int = 64, **options: Any) -> str:
    """A checkpoint of a tiny SigLIP."""
    siglip(image_size=side, **options).save_pretrained(folder)
    return str(folder)


def encode_report(encoder: MeasuredEncoder, video: str, *grid: Any, **options: Any) -> EncodeReport:
    """`bench_encode` of a loaded encoder; memory is measured in the tests of timing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autogaze.evaluation.encode.load_encoder", lambda *_: encoder)
        patch.setattr("autogaze.evaluation.encode.memory_gauge", lambda _: MemoryGauge())
        patch.setattr("autogaze.evaluation.encode.gc.collect", lambda: 0)
        return bench_encode(video, ["tiny"], *grid, device_options=DEVICE_OPTIONS, **options)


def random_gaze(
    pyramid: PatchPyramid, num_clips: int, num_frames: int, mean: int, generator: torch.Generator
) -> Gaze:
    """Random patches of all scales, between a half and one and a half times `mean` per frame."""
    counts = torch.randint(
        mean - mean // 2, mean + mean // 2 + 1, (num_clips * num_frames,), generator=generator
    )
    ids = [torch.randperm(pyramid.num_patches, generator=generator)[:n] for n in counts.tolist()]
    return Gaze(pyramid, torch.cat(ids), counts.view(num_clips, num_frames))
