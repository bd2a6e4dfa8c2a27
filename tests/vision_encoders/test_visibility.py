"""Which tokens see which, for every encoder and attention type; nothing else matters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze, gazed
from autogaze.vision_encoders.layout import ATTENTION_TYPES
from tests.vision_encoders.families import (
    FAMILIES,
    Family,
    assert_close,
    random_frames,
    random_gaze,
)

SCALES = (32, 48, 64)
ONE_OF_A_KIND = ["siglip", "siglip2-naflex", "dinov2-registers", "dinov3", "clip", "vit"]
every_family = pytest.mark.parametrize("name", ONE_OF_A_KIND)
every_type = pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=2, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def encoders():
    """Gazed models by family and options, made once."""
    kept = {}

    def make(name, **options):
        key = name, tuple(options.items())
        if key not in kept:
            kept[key] = gazed(FAMILIES[name].model(), **options)
        return kept[key]

    return make


def frames_and_gaze(name, clips, frames, seed=0, scales=SCALES):
    family: Family = FAMILIES[name]
    pyramid = family.pyramid(*scales)
    return random_frames(clips, frames, pyramid.side, seed), random_gaze(
        pyramid, clips, frames, seed
    )


def every_layer(out):
    """All patch features of a call, one next to the other: (N, C * (layers + 2))."""
    return torch.cat([out.last_hidden_state, *out.hidden_states], dim=1)


def shuffled(gaze, seed):
    """The same patches of every frame in another order, and where each came from."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            start + torch.randperm(stop - start, generator=generator)
            for start, stop in zip(gaze.offsets, gaze.offsets[1:], strict=False)
        ]
    )
    return Gaze(gaze.pyramid, gaze.ids[order], gaze.lengths), order


@every_family
@pytest.mark.parametrize("attn_type", ["bidirectional", "frame_independent", "block_causal"])
@few
@given(seed=seeds)
def test_the_order_of_patches_changes_their_order_only(encoders, name, attn_type, seed):
    encoder = encoders(name, attn_type=attn_type)
    frames, gaze = frames_and_gaze(name, 2, 3, seed)
    other, order = shuffled(gaze, seed)
    one = encoder(frames, gaze, output_hidden_states=True)
    two = encoder(frames, other, output_hidden_states=True)
    assert_close(every_layer(two), every_layer(one)[order], 1e-5)
    assert_close(two.pooler_output, one.pooler_output, 1e-5)
    if one.prefix_hidden_state is not None:
        assert_close(two.prefix_hidden_state, one.prefix_hidden_state, 1e-5)


@every_family
def test_the_order_of_patches_counts_where_attention_is_causal(encoders, name):
    encoder = encoders(name, attn_type="causal")
    frames, gaze = frames_and_gaze(name, 1, 1, seed=1)
    other, order = shuffled(gaze, seed=1)
    assert not order.equal(order.sort().values)
    one, two = encoder(frames, gaze), encoder(frames, other)
    assert (two.last_hidden_state - one.last_hidden_state[order]).abs().max() > 0.1


@every_family
@pytest.mark.parametrize("attn_type", ["block_causal", "causal"])
@few
@given(seed=seeds, first=st.integers(1, 3))
def test_later_frames_are_not_seen(encoders, name, attn_type, seed, first):
    """Features of the first frames stay, also of their class tokens and pooled."""
    encoder = encoders(name, attn_type=attn_type)
    frames, gaze = frames_and_gaze(name, 2, 4, seed)
    later, other = frames_and_gaze(name, 2, 4, seed + 1)
    whole = Gaze.cat_frames([gaze.frames(0, first), other.frames(first, 4)])
    changed = torch.cat([frames[:, :first], later[:, first:]], dim=1)
    one, two = encoder(frames, gaze), encoder(changed, whole)
    assert_close(two.pooler_output[:, :first], one.pooler_output[:, :first], 1e-5)
    assert (two.pooler_output[:, first:] - one.pooler_output[:, first:]).abs().amax(2).min() > 1e-2
    for clip in range(2):
        for frame in range(first):
            assert_close(two.frame(clip, frame), one.frame(clip, frame), 1e-5)
    if one.prefix_hidden_state is not None:
        kept = one.prefix_hidden_state[:, :first]
        assert_close(two.prefix_hidden_state[:, :first], kept, 1e-5)


@every_family
@every_type
@pytest.mark.parametrize(("changed", "seen_from"), [(0, 2), (2, 0)], ids=["earlier", "later"])
def test_frames_that_a_token_sees_count(encoders, name, attn_type, changed, seen_from):
    """Earlier frames unless frames are independent, later ones if attention is bidirectional."""
    encoder = encoders(name, attn_type=attn_type)
    frames, gaze = frames_and_gaze(name, 1, 3)
    other = frames.clone()
    other[:, changed] = other[:, changed].flip(-1)
    one, two = encoder(frames, gaze), encoder(other, gaze)
    difference = (two.frame(0, seen_from) - one.frame(0, seen_from)).abs().amax(1)
    if attn_type == "bidirectional" or (changed < seen_from and attn_type != "frame_independent"):
        assert difference.min() > 1e-3
    else:
        assert difference.max() < 1e-5


@every_family
@few
@given(seed=seeds, data=st.data())
def test_causal_tokens_see_nothing_behind_them(encoders, name, seed, data):
    encoder = encoders(name, attn_type="causal")
    frames, gaze = frames_and_gaze(name, 1, 1, seed)
    kept = data.draw(st.integers(1, gaze.num_patches))
    fewer = Gaze(gaze.pyramid, gaze.ids[:kept], torch.tensor([[kept]]))
    one = encoder(frames, gaze, output_hidden_states=True)
    two = encoder(frames, fewer, output_hidden_states=True)
    assert_close(every_layer(two), every_layer(one)[:kept], 1e-5)


@every_family
@every_type
@few
@given(seed=seeds)
def test_a_clip_is_the_same_alone_and_in_a_batch(encoders, name, attn_type, seed):
    encoder = encoders(name, attn_type=attn_type)
    frames, gaze = frames_and_gaze(name, 3, 2, seed)
    together = encoder(frames, gaze, output_hidden_states=True)
    alone = [
        encoder(frames[clip : clip + 1], gaze[clip], output_hidden_states=True) for clip in range(3)
    ]
    assert_close(every_layer(together), torch.cat([every_layer(out) for out in alone]), 1e-5)
    assert_close(together.pooler_output, torch.cat([out.pooler_output for out in alone]), 1e-5)
    if together.prefix_hidden_state is not None:
        prefixes = torch.cat([out.prefix_hidden_state for out in alone])
        assert_close(together.prefix_hidden_state, prefixes, 1e-5)


@every_family
@every_type
def test_clips_encoded_one_after_another_are_as_together(encoders, name, attn_type):
    frames, gaze = frames_and_gaze(name, 4, 3, seed=2)
    together = encoders(name, attn_type=attn_type)
    sliced = encoders(name, attn_type=attn_type, max_tokens=1)
    runs = []
    handle = next(iter(sliced._adapter.layers)).register_forward_pre_hook(lambda *_: runs.append(1))
    one = together(frames, gaze, output_hidden_states=True)
    two = sliced(frames, gaze, output_hidden_states=True)
    handle.remove()
    # A clip is a unit that is never cut, a frame is one if frames are independent.
    assert len(runs) == (12 if attn_type == "frame_independent" else 4)
    assert_close(every_layer(two), every_layer(one), 1e-5)
    assert_close(two.pooler_output, one.pooler_output, 1e-5)
    if one.prefix_hidden_state is not None:
        assert_close(two.prefix_hidden_state, one.prefix_hidden_state, 1e-5)


@every_family
def test_the_padded_dict_is_the_gaze(encoders, name):
    encoder = encoders(name)
    frames, gaze = frames_and_gaze(name, 3, 2, seed=3)
    padded = gaze.padded()
    assert padded["if_padded_gazing"].any()
    one, two = encoder(frames, gaze), encoder(frames, padded)
    assert two.gaze.ids.equal(gaze.ids)
    assert two.gaze.lengths.equal(gaze.lengths)
    assert two.last_hidden_state.equal(one.last_hidden_state)
    assert two.pooler_output.equal(one.pooler_output)


@every_family
def test_the_same_patch_at_another_place_or_scale_is_another(encoders, name):
    """Positions count: a picture of one colour looks the same everywhere but for them."""
    encoder = encoders(name, attn_type="frame_independent")
    pyramid = FAMILIES[name].pyramid(*SCALES)
    frames = torch.ones(1, pyramid.num_patches, 3, pyramid.side, pyramid.side)
    ids = torch.arange(pyramid.num_patches)
    out = encoder(frames, Gaze(pyramid, ids, torch.ones(1, len(ids), dtype=torch.long)))
    # Rotary positions tell alone as well, since a patch meets class tokens, which do not turn.
    features = out.last_hidden_state
    distance = torch.cdist(features, features) + 10 * torch.eye(len(ids))
    assert distance.min() > 1e-3
