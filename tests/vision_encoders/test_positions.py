"""Positions of all scales: in training DINOv3 draws them once a call, as its untouched model does."""

import pytest
import torch
from torch.nn import functional as F

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.vision_encoders.adapter import PositionTables
from autogaze.vision_encoders.registry import adapter_class
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames

PYRAMID = PatchPyramid((32, 48, 64), 16)
SHAKEN = {"pos_embed_shift": 0.2, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0}


@pytest.fixture
def model():
    return FAMILIES["dinov3"].model(**SHAKEN).train()


def everything_at(level: int) -> Gaze:
    first, count = PYRAMID.offsets[level], PYRAMID.cells[level]
    return Gaze(PYRAMID, first + torch.arange(count), torch.tensor([[count]]))


@pytest.mark.parametrize("level", range(3))
def test_every_scale_is_shaken_as_the_untouched_model_shakes_it(model, level):
    frames = random_frames(1, 1)
    side = PYRAMID.scales[level]
    images = F.interpolate(frames[0], (side, side), mode="bicubic")
    with torch.no_grad():
        torch.manual_seed(3)
        expected = model(images).last_hidden_state[0, 3:]
        after = torch.get_rng_state()
        torch.manual_seed(3)
        found = gazed(model)(frames, everything_at(level)).last_hidden_state
    assert_close(found, expected)
    assert torch.get_rng_state().equal(after)  # one draw for all scales, no more


def test_every_call_draws_anew(model):
    adapter = adapter_class(model.config)(model)
    one, two = (PositionTables.of(adapter, PYRAMID).rotary[0] for _ in range(2))
    assert not one.equal(two)


def test_nothing_is_drawn_where_nothing_is_trained(model):
    adapter = adapter_class(model.config)(model.eval())
    before = torch.get_rng_state()
    one, two = (PositionTables.of(adapter, PYRAMID) for _ in range(2))
    assert torch.get_rng_state().equal(before)
    assert one.rotary[0].equal(two.rotary[0])
    assert one.rotary[0].shape[0] == PYRAMID.num_patches
    assert one.positions is None
