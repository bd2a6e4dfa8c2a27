"""The counted arithmetic of encoders, against what PyTorch counts while they run."""

import pytest
import torch
import transformers as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autogaze.clips import frame_caps
from autogaze.evaluation.encode import published_ratio
from autogaze.evaluation.encoders import PRESETS
from autogaze.evaluation.flops import EncoderFlops, learned_flops
from autogaze.evaluation.scaling import random_gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze import AutoGazeConfig
from autogaze.vision_encoders import gazed
from autogaze.vision_encoders.layout import ATTENTION_TYPES
from autogaze.vision_encoders.registry import adapter_class
from tests.evaluation import tiny

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
    expected = counted(lambda: encoder.adapter.dense(frames))
    assert flops.embedding(3 * 16) + flops.encoding([[16]] * 3, "frame_independent") == expected


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
    assert flops.embedding(gaze.num_patches) + flops.encoding(lengths, attn_type) == expected


def test_a_causal_token_meets_itself_and_those_before():
    flops = EncoderFlops(patch=0, token=0, pair=1, pooled_token=0, pooled_frame=0, num_prefix=1)
    assert flops.encoding([[2, 1]], "causal") == 1 + 2 + 3 + 4 + 5


# What was promised, in arithmetic at real sizes; times are `bench encode`'s to measure.

SELECTOR = AutoGazeConfig()
REAL = ["siglip2-base-patch16-224", "siglip2-so400m-patch14-384"]


def at_its_real_size(name: str) -> tuple[EncoderFlops, PatchPyramid]:
    with torch.device("meta"):
        model = PRESETS[name]()
    adapter = adapter_class(model.config)(model)
    return EncoderFlops.of(adapter), adapter.usual_pyramid


@pytest.mark.parametrize("attn_type", ["frame_independent", "block_causal"])
@pytest.mark.parametrize("name", REAL)
def test_a_share_of_the_tokens_takes_that_share_of_the_arithmetic(name, attn_type):
    flops, pyramid = at_its_real_size(name)
    cells = pyramid.cells[-1]
    dense = flops.embedding(16 * cells) + flops.encoding([[cells]] * 16, "frame_independent")
    for share in (0.05, 0.1, 0.2, 0.35, 0.5):
        patches = round(share * cells)
        gazed = flops.embedding(16 * patches) + flops.encoding([[patches] * 16], attn_type)
        assert gazed / dense <= 1.25 * share + 0.05


@pytest.mark.parametrize("fps", [1, 2, 3, 5, 10, 15, 24, 30])
@pytest.mark.parametrize("pixels", [224, 448, 896])
@pytest.mark.parametrize("name", REAL)
def test_selecting_and_encoding_takes_less_arithmetic_than_dense_encoding(name, pixels, fps):
    """A clip of a tile, by the learned selector's default architecture at the published shares."""
    flops, pyramid = at_its_real_size(name)
    cells = pyramid.cells[-1]
    dense = flops.embedding(16 * cells) + flops.encoding([[cells]] * 16, "frame_independent")
    own = PatchPyramid()
    clips = 1 if pyramid == own else 4  # four of the selector's grids cover 27 x 27 cells
    caps = frame_caps(published_ratio(fps, pixels), 16, own.num_patches)
    patches = [clips * cap for cap in caps]
    gazed = flops.embedding(sum(patches)) + flops.encoding([patches], "block_causal")
    assert clips * learned_flops(SELECTOR, caps) + gazed < 0.6 * dense
