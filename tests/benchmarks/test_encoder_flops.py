"""The counted arithmetic of encoders, against what PyTorch counts while they run."""

import pytest
import torch
import transformers as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autogaze.benchmarks.encoder_flops import EncoderFlops
from autogaze.benchmarks.scaling import random_gaze
from autogaze.vision_encoders import gazed
from autogaze.vision_encoders.layout import ATTENTION_TYPES
from tests.benchmarks import tiny

FAMILIES = {
    "siglip": tiny.siglip,
    "siglip-headless": lambda: tiny.siglip(vision_use_head=False),
    "dinov2": lambda: tf.Dinov2Model(
        tf.Dinov2Config(
            image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    ),
    "vit": lambda: tf.ViTModel(tf.ViTConfig(image_size=64, patch_size=16, **tiny.SIZES)),
}


def counted(run) -> int:
    # Fused attention on a CPU is not known to the counter, the plain products are.
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_encoding(family):
    encoder = tiny.encoder(FAMILIES[family]())
    flops = EncoderFlops.of(encoder.adapter)
    frames = torch.rand(3, 3, 64, 64)
    expected = counted(lambda: encoder.forward_dense(frames))
    assert flops.embed(3 * 16) + flops.encode_dense(3, 16) == expected


@pytest.mark.parametrize("attn_type", [name for name in ATTENTION_TYPES if name != "causal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gazed_encoding(family, attn_type):
    encoder = tiny.encoder(FAMILIES[family]())
    model = gazed(encoder.dense, attn_type=attn_type)
    generator = torch.Generator().manual_seed(0)
    gaze = random_gaze(encoder.pyramid, 4, 0.4, generator, ragged=True, num_clips=2)
    flops = EncoderFlops.of(encoder.adapter)
    frames = torch.rand(2, 4, 3, 64, 64)
    expected = counted(lambda: model(frames, gaze))
    lengths = gaze.lengths.tolist()
    assert flops.embed(gaze.num_patches) + flops.encode(lengths, attn_type) == expected


def test_a_causal_token_meets_itself_and_those_before():
    flops = EncoderFlops(patch=0, token=0, pair=1, pooled_token=0, pooled_frame=0, num_prefix=1)
    assert flops.encode([[2, 1]], "causal") == 1 + 2 + 3 + 4 + 5
