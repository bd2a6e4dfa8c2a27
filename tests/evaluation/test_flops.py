"""Counted arithmetic, against what PyTorch counts while encoders run and what the docs say."""

from dataclasses import replace

import pytest
import torch
import transformers as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autogaze.clips import frame_caps
from autogaze.evaluation.encode import published_ratio
from autogaze.evaluation.encoders import PRESETS
from autogaze.evaluation.flops import (
    ARCHITECTURES,
    EncoderFlops,
    SavingsCounter,
    canvas_flops,
    difference_flops,
    learned_flops,
    selection_flops,
)
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze import AutoGazeConfig
from autogaze.selectors import registry
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
    model = gazed(encoder.gazed.model, attn_type=attn_type)
    generator = torch.Generator().manual_seed(0)
    gaze = tiny.random_gaze(encoder.pyramid, 2, 4, 6, generator)
    flops = EncoderFlops.of(encoder.adapter)
    frames = torch.rand(2, 4, 3, 64, 64)
    expected = counted(lambda: model(frames, gaze))
    lengths = gaze.lengths.tolist()
    assert flops.embedding(gaze.num_patches) + flops.encoding(lengths, attn_type) == expected


def test_a_causal_token_meets_itself_and_those_before():
    flops = EncoderFlops(
        patch=0, token=0, pair=1, pooled_token=0, pooled_pair=0, pooled_frame=0, num_prefix=1
    )
    assert flops.encoding([[2, 1]], "causal") == 1 + 2 + 3 + 4 + 5


# Targets at real sizes, in arithmetic; times are `bench encode`'s to measure.

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


# Selectors.


@pytest.mark.parametrize(("ratio", "gflop"), [(0.1, 37.3), (0.75, 87.4)])
def test_the_default_architecture_needs_what_the_documents_say(ratio, gflop):
    caps = frame_caps(ratio, 16, PatchPyramid().num_patches)
    assert learned_flops(AutoGazeConfig(), caps) / 1e9 == pytest.approx(gflop, abs=0.05)


def test_attention_grows_with_the_square_of_the_length():
    config = AutoGazeConfig()
    short, twice, thrice = (learned_flops(config, [10] * n) for n in (100, 200, 300))
    # Second differences leave only what is quadratic: 4 layers of 4 * 192 a pair of tokens.
    pairs = (206 * 100) ** 2
    assert thrice - 2 * twice + short == pytest.approx(4 * 4 * 192 * pairs, rel=1e-6)


def test_greedy_counts_every_frame_alike():
    assert canvas_flops(PatchPyramid(), 16) == 16 * canvas_flops(PatchPyramid(), 1)
    assert canvas_flops(PatchPyramid(), 16) / 1e9 == pytest.approx(0.12, abs=0.005)


def test_selection_is_counted_by_who_selects():
    pyramid = PatchPyramid((16, 32), 16)
    lengths = [[2, 1, 3], [1, 1, 1]]

    def flops(name):
        return selection_flops(registry.load(name, pyramid=pyramid), lengths)

    assert flops("greedy") == canvas_flops(pyramid, 6)
    assert flops("run-length") == flops("change") == difference_flops(pyramid, 6)
    assert flops("random") == flops("codec") == 0


@pytest.mark.parametrize(
    ("name", "preset", "patch_size"),
    [
        ("SigLIP2-base", "siglip2-base-patch16-224", 16),
        ("SigLIP2-SO400M", "siglip2-so400m-patch14-384", 14),
    ],
)
def test_savings_count_encoders_of_real_size(name, preset, patch_size):
    with torch.device("meta"):
        model = PRESETS[preset]()
    found = EncoderFlops.of(adapter_class(model.config)(model))
    assert found.patch == ARCHITECTURES[name].patch * patch_size**2 // 16**2
    assert replace(found, patch=0) == replace(ARCHITECTURES[name], patch=0)


def test_savings_of_everything_at_one_scale_are_none():
    """All finest patches of single frames are what dense encoding sees."""
    pyramid = PatchPyramid()
    mask = torch.zeros(2, 1, pyramid.num_patches, dtype=torch.bool)
    mask[..., -pyramid.cells[-1] :] = True
    counter = SavingsCounter(registry.load("random"))
    counter.add(Gaze.from_mask(pyramid, mask))
    for saving in counter.savings:
        assert saving.gazed == saving.dense
        assert saving.share == 0
    base = ARCHITECTURES["SigLIP2-base"]
    assert (
        2 * (base.embedding(196) + base.encoding([[196]], "block_causal"))
        == counter.savings[0].dense
    )
