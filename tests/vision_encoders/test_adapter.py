"""Gazing at everything is what the untouched transformers model does, for every family."""

import pytest
import torch
import transformers as tf
from torch.nn import functional as F

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.evaluation.encoders import PRESETS
from autogaze.vision_encoders.positions import PositionTables
from autogaze.vision_encoders.registry import adapter_class
from tests.vision_encoders.families import (
    FAMILIES,
    SMALL,
    Family,
    assert_close,
    naflex_input,
    random_frames,
    with_large_weights,
)

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def assert_like_dense(out, expected, shape):
    """Everything that both return: patches, class tokens, every layer, pooled frames."""
    count = shape[0] * shape[1]
    patches = out.last_hidden_state.unflatten(0, (count, -1))
    prefix = out.prefix_hidden_state
    everything = patches if prefix is None else torch.cat([prefix.flatten(0, 1), patches], dim=1)
    assert_close(everything, expected.last_hidden_state)
    pooled = getattr(expected, "pooler_output", None)
    if pooled is None:
        assert out.pooler_output is None
    else:
        assert_close(out.pooler_output, pooled.unflatten(0, shape))
    # The last layer's output may be listed before or after the final norm.
    assert len(out.hidden_states) == len(expected.hidden_states)
    for mine, theirs in zip(out.hidden_states, expected.hidden_states, strict=True):
        num_prefix = 0 if prefix is None else prefix.shape[2]
        assert_close(mine.unflatten(0, (count, -1)), theirs[:, num_prefix:])


@every_family
@pytest.mark.parametrize("own_size", [True, False], ids=["own size", "other size"])
def test_everything_of_one_frame_is_the_dense_model(family: Family, own_size):
    side = family.side if own_size else family.other_side
    model = family.model()
    frames = random_frames(2, 1, side)
    gaze = Gaze.everything(family.pyramid(side), 2, 1)
    with torch.no_grad():
        expected = family.dense(model, frames.flatten(0, 1), output_hidden_states=True)
        out = gazed(model)(frames, gaze, output_hidden_states=True)
    assert_like_dense(out, expected, (2, 1))


@every_family
def test_frame_independent_frames_are_as_alone(family: Family):
    model = family.model()
    frames = random_frames(2, 3, family.side)
    gaze = Gaze.everything(family.pyramid(), 2, 3)
    with torch.no_grad():
        expected = family.dense(model, frames.flatten(0, 1), output_hidden_states=True)
        out = gazed(model, attn_type="frame_independent")(frames, gaze, output_hidden_states=True)
    assert_like_dense(out, expected, (2, 3))


@every_family
def test_gradients_are_those_of_the_dense_model(family: Family):
    model = family.model()
    frames = random_frames(2, 1, family.side)
    gaze = Gaze.everything(family.pyramid(), 2, 1)

    def gradients(features):
        model.zero_grad()
        features.square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients(family.dense(model, frames.flatten(0, 1)).last_hidden_state)
    out = gazed(model)(frames, gaze)
    patches = out.last_hidden_state.unflatten(0, (2, -1))
    prefix = out.prefix_hidden_state
    found = gradients(
        patches if prefix is None else torch.cat([prefix.flatten(0, 1), patches], dim=1)
    )
    assert found.keys() == expected.keys()
    assert len(found) > 20
    # Some gradients are zero but for rounding (keys' biases), so all have one measure.
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert_close(found[name] / scale, gradient / scale, 1e-5)


@every_family
def test_a_part_of_one_frame_is_the_dense_model_with_the_rest_unseen(family: Family):
    """Few patches differ from the dense features of those patches: attention is narrower."""
    model = family.model()
    frames = random_frames(1, 1, family.side)
    pyramid = family.pyramid()
    chosen = torch.tensor([5, 2, 11])
    with torch.no_grad():
        everything = gazed(model)(frames, Gaze.everything(pyramid, 1, 1)).last_hidden_state
        few = gazed(model)(frames, Gaze(pyramid, chosen, torch.tensor([[3]]))).last_hidden_state
    assert few.shape == (3, 48)
    assert (few - everything[chosen]).abs().amax(1).min() > 0.1


@every_family
@pytest.mark.parametrize("own_size", [True, False], ids=["own size", "other size"])
def test_adapters_know_how_the_untouched_model_is_called(family: Family, own_size):
    side = family.side if own_size else family.other_side
    model = family.model()
    frames = random_frames(1, 2, side)[0]
    with torch.no_grad():
        expected = family.dense(model, frames)
        found = adapter_class(model.config)(model).dense(frames)
    assert found.last_hidden_state.equal(expected.last_hidden_state)
    pooled = getattr(expected, "pooler_output", None)
    assert (
        (getattr(found, "pooler_output", None) is None)
        if pooled is None
        else found.pooler_output.equal(pooled)
    )


def test_adapters_run_the_part_that_is_gazed():
    """Of a classifier its trunk, whose output has features in it."""
    torch.manual_seed(0)
    model = tf.ViTForImageClassification(tf.ViTConfig(image_size=64, patch_size=16, **SMALL)).eval()
    frames = random_frames(1, 2)[0]
    with torch.no_grad():
        found = adapter_class(model.config)(model).dense(frames).last_hidden_state
        assert found.equal(model.vit(frames).last_hidden_state)


def test_naflex_sees_padded_images_as_gazed_ones():
    """NaFlex itself leaves patches out, by a mask: then what is kept is the same."""
    family = FAMILIES["siglip2-naflex"]
    model = family.model()
    frames = random_frames(1, 1)
    inputs = naflex_input(frames[0], 16)
    # Its padding stands behind, so only a run of leading rows can be compared.
    inputs["pixel_attention_mask"][:, 12:] = 0
    gaze = Gaze(family.pyramid(), torch.arange(12), torch.tensor([[12]]))
    with torch.no_grad():
        expected = model(**inputs)
        out = gazed(model)(frames, gaze)
    assert_close(out.last_hidden_state, expected.last_hidden_state[0, :12])
    assert_close(out.pooler_output[0], expected.pooler_output)


def test_at_its_real_size():
    """SigLIP2-base/16-224, which is SigLIP's architecture."""
    with torch.device("meta"):
        model = PRESETS["siglip2-base-patch16-224"]()
    model = with_large_weights(model.to_empty(device="cpu").eval())
    for name, buffer in model.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.shape[1])[None])
    frames = random_frames(1, 1, 224)
    pyramid = Family(lambda: model, side=224).pyramid()
    with torch.no_grad():
        expected = model(frames[0], output_hidden_states=True)
        out = gazed(model)(frames, Gaze.everything(pyramid, 1, 1), output_hidden_states=True)
    assert out.last_hidden_state.shape == (196, 768)
    assert_like_dense(out, expected, (1, 1))


# Positions of all scales: in training DINOv3 draws them once per call, as its untouched model does.

PYRAMID = PatchPyramid((32, 48, 64), 16)
SHAKEN = {"pos_embed_shift": 0.2, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0}


@pytest.fixture
def shaken():
    return FAMILIES["dinov3"].model(**SHAKEN).train()


def everything_at(level: int) -> Gaze:
    first, count = PYRAMID.offsets[level], PYRAMID.cells[level]
    return Gaze(PYRAMID, first + torch.arange(count), torch.tensor([[count]]))


@pytest.mark.parametrize("level", range(3))
def test_every_scale_is_shaken_as_the_untouched_model_shakes_it(shaken, level):
    frames = random_frames(1, 1)
    side = PYRAMID.scales[level]
    images = F.interpolate(frames[0], (side, side), mode="bicubic")
    with torch.no_grad():
        torch.manual_seed(3)
        expected = shaken(images).last_hidden_state[0, 3:]
        after = torch.get_rng_state()
        torch.manual_seed(3)
        found = gazed(shaken)(frames, everything_at(level)).last_hidden_state
    assert_close(found, expected)
    assert torch.get_rng_state().equal(after)  # one draw for all scales, no more


def test_every_call_draws_anew(shaken):
    adapter = adapter_class(shaken.config)(shaken)
    one, two = (PositionTables.of(adapter, PYRAMID).rotary[0] for _ in range(2))
    assert not one.equal(two)


def test_nothing_is_drawn_where_nothing_is_trained(shaken):
    adapter = adapter_class(shaken.config)(shaken.eval())
    before = torch.get_rng_state()
    one, two = (PositionTables.of(adapter, PYRAMID) for _ in range(2))
    assert torch.get_rng_state().equal(before)
    assert one.rotary[0].equal(two.rotary[0])
    assert one.rotary[0].shape[0] == PYRAMID.num_patches
    assert one.positions is None
