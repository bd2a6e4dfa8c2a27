"""The gaze loop: invariants that hold whatever the weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gazes import same
from tests.models.autogaze.tiny import POSITIONS, threshold_of, tiny_model, tiny_video

FEW = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kv_heads", [4, 2])
@given(st.integers(0, 50), st.sampled_from([1, 3, 4]), st.booleans())
@FEW
def test_a_batch_equals_its_rows(positions, kv_heads, seed, K, stop):
    model = tiny_model(seed, decode_positions=positions, kv_heads=kv_heads, K=K)
    video = tiny_video(3, 4, seed)
    threshold = threshold_of(model, video) if stop else None
    caps = [15, 7, 20, 2]
    together = model.generate(video, caps=caps, threshold=threshold).to_gaze()
    for row in range(3):
        alone = model.generate(video[row : row + 1], caps=caps, threshold=threshold).to_gaze()
        assert same(together[row], alone)


@given(st.integers(0, 50), st.lists(st.integers(1, 20), min_size=3, max_size=3), st.booleans())
@FEW
def test_caps_hold_and_no_patch_comes_twice(seed, caps, stop):
    model, video = tiny_model(seed), tiny_video(2, 3, seed)
    threshold = threshold_of(model, video) if stop else None
    gaze = model.generate(video, caps=caps, threshold=threshold).to_gaze()  # Gaze refuses twice
    assert bool((gaze.lengths <= torch.tensor(caps)).all())
    assert bool((gaze.lengths >= 1).all())
    if not stop:
        assert gaze.lengths.tolist() == [caps, caps]


def test_frames_after_a_frame_do_not_change_it():
    model, video = tiny_model(), tiny_video(1, 4)
    other = video.clone()
    other[:, 2:] = tiny_video(1, 2, seed=9)
    one, two = model.generate(video).to_gaze(), model.generate(other).to_gaze()
    assert same(one.frames(0, 2), two.frames(0, 2))
    assert not same(one.frames(2, 4), two.frames(2, 4))


def test_a_low_threshold_never_stops_and_a_high_one_stops_at_once():
    model, video = tiny_model(), tiny_video(2, 2)
    assert model.generate(video, threshold=-1e9).to_gaze().ratio == 1
    # Slot 0 of a frame never stops: one patch a frame remains.
    assert model.generate(video, threshold=1e9).to_gaze().lengths.tolist() == [[1, 1], [1, 1]]


def test_weights_changed_in_place_are_noticed():
    model, video = tiny_model(), tiny_video(1, 2)
    before = model.generate(video, caps=[9, 9]).to_gaze()
    assert same(model.generate(video, caps=[9, 9]).to_gaze(), before)
    with torch.no_grad():
        model.gazing_model.gaze_decoder.lm_head.weight.neg_()
    changed = model.generate(video, caps=[9, 9]).to_gaze()
    assert not same(changed, before)
    fresh = tiny_model(seed=1)
    fresh.load_state_dict(model.state_dict())
    assert same(fresh.generate(video, caps=[9, 9]).to_gaze(), changed)


def test_other_precisions_gaze_too():
    video = tiny_video(1, 2)
    expected = tiny_model().generate(video, caps=[9, 9]).to_gaze().ids
    double = tiny_model().double().generate(video.double(), caps=[9, 9]).to_gaze().ids
    assert double.equal(expected)
    half = tiny_model().to(torch.bfloat16).generate(video, caps=[9, 9]).to_gaze()
    assert half.lengths.tolist() == [[9, 9]]
