"""Gazing with static shapes gives the gazes of the ragged loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze
from autogaze.models.autogaze import static_shapes
from autogaze.models.autogaze.sampling import Sampling
from tests.gazes import same
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

FEW = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("positions", ["as_released", "sequential"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@given(st.integers(0, 50), st.sampled_from([1, 3, 4]), st.booleans())
@FEW
def test_static_shapes_change_no_gaze(positions, kv_heads, seed, K, stop):
    model = tiny_model(seed, decode_positions=positions, kv_heads=kv_heads, K=K)
    video = tiny_video(3, 4, seed)
    threshold = threshold_of(model, video) if stop else None
    caps = [15, 7, 20, 2]
    ragged = model.generate(video, caps=caps, threshold=threshold)
    model.static_shapes = True
    fixed = model.generate(video, caps=caps, threshold=threshold)
    assert same(fixed.to_gaze(), ragged.to_gaze())
    assert fixed.to_padded()["num_gazing_each_frame"].equal(
        ragged.to_padded()["num_gazing_each_frame"]
    )


def test_static_streams_grow_and_equal_the_whole_clip(monkeypatch):
    monkeypatch.setattr(static_shapes, "WINDOW", 16)
    model, video = tiny_model(), tiny_video(2, 5)
    whole = model.generate(video, caps=[9] * 5).to_gaze()
    model.static_shapes = True
    stream = model.stream(2)  # room for one frame
    parts = [
        model.generate(frame, caps=[9], stream=stream).to_gaze() for frame in video.split(1, 1)
    ]
    assert same(Gaze.cat_frames(parts), whole)


def test_static_caches_are_views():
    video, call = tiny_video(2, 1), {"gazing_ratio": 0.5, "generate_only": True, "use_cache": True}
    ragged, fixed = tiny_model(), tiny_model()
    fixed.static_shapes = True
    one, two = ragged({"video": video}, **call), fixed({"video": video}, **call)
    assert one["past_attention_mask"][0].equal(two["past_attention_mask"][0])
    for ours, theirs in zip(one["past_input_embeds"][0], two["past_input_embeds"][0], strict=True):
        assert ours.equal(theirs)


def test_static_sampling_follows_its_generator():
    model, video = tiny_model(), tiny_video(1, 2)
    ragged = model.generate(
        video, caps=[8, 8], sampling=Sampling(2.0, torch.Generator().manual_seed(3))
    )
    model.static_shapes = True
    fixed = model.generate(
        video, caps=[8, 8], sampling=Sampling(2.0, torch.Generator().manual_seed(3))
    )
    assert same(fixed.to_gaze(), ragged.to_gaze())


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_what_is_gazed_at_is_known_where_nothing_can_stop(temperature):
    model, video = tiny_model(), tiny_video(2, 2)
    model.static_shapes, sampling = True, Sampling(temperature)
    rows = model.generate(video, caps=[9, 4], sampling=sampling)
    assert rows.known_kept is not None
    assert rows.known_kept.equal(rows.kept)
    assert rows.to_gaze().ids.equal(rows.ids[rows.kept])
    assert rows.to_gaze(slice(1, 2)).ids.equal(rows.ids[1])
    assert rows.to_gaze().lengths.tolist() == [[9, 4], [9, 4]]
    for caps, threshold in (([9, 4], -1e9), (torch.tensor([[9, 4], [9, 5]]), None)):
        some = model.generate(video, caps=caps, threshold=threshold, sampling=sampling)
        assert some.known_kept is None
