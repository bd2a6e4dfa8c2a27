"""What gazing must hold, whatever the weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze
from autogaze.errors import SelectorError
from autogaze.models.autogaze.decoding import Picking, pick_block
from tests.gazes import same
from tests.models.tiny import tiny_model, tiny_video

POSITIONS = ["as_released", "sequential"]
FEW = settings(max_examples=8, deadline=None)


def threshold_of(model, video) -> float:
    """A predicted loss at which some frames stop early and others late.

    It lies in the widest gap between predicted losses around the median: on one of
    them, rounding would decide who stops.
    """
    scores = model.score(video, model.generate(video))
    losses = scores.predicted_losses.detach().flatten().sort().values
    middle = losses[len(losses) // 4 : -len(losses) // 4]
    gap = (middle[1:] - middle[:-1]).argmax()
    return float(middle[gap : gap + 2].mean())


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


@pytest.mark.parametrize("positions", POSITIONS)
@given(st.integers(0, 50), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans())
@FEW
def test_streaming_equals_the_whole_clip(positions, seed, pieces, stop):
    model = tiny_model(seed, decode_positions=positions)
    video = tiny_video(2, sum(pieces), seed)
    threshold = threshold_of(model, video) if stop else None
    whole = model.generate(video, threshold=threshold).to_gaze()
    stream = model.stream(2)
    parts = [
        model.generate(part, threshold=threshold, stream=stream).to_gaze()
        for part in video.split(pieces, dim=1)
    ]
    assert same(Gaze.cat_frames(parts), whole)


@given(st.integers(0, 50), st.integers(1, 5))
@FEW
def test_micro_batches_change_nothing(seed, batch):
    model, video = tiny_model(seed), tiny_video(5, 3, seed)
    threshold = threshold_of(model, video)
    whole = model.generate(video, threshold=threshold)
    stream = model.stream(5, num_frames=3)
    stream.batch = batch
    parts = model.generate(video, threshold=threshold, stream=stream)
    assert same(whole.to_gaze(), parts.to_gaze())
    assert len(stream.states) == -(-5 // batch)
    assert whole.to_padded()["gazing_pos"].shape == parts.to_padded()["gazing_pos"].shape


def test_the_memory_budget_decides_the_micro_batch():
    model, video = tiny_model(), tiny_video(6, 2)
    whole = model.generate(video, caps=[5, 5]).to_gaze()
    model.memory_budget = 1
    stream = model.stream(6, num_frames=2, cap=5)
    assert stream.batch == 1
    assert same(model.generate(video, caps=[5, 5], stream=stream).to_gaze(), whole)


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


def test_sampling_follows_its_generator():
    model, video = tiny_model(), tiny_video(1, 2)

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(video, caps=[8, 8], picking=Picking(3.0, generator)).to_gaze()

    assert same(sample(1), sample(1))
    assert not same(sample(1), sample(2))
    cold = model.generate(video, caps=[8, 8], picking=Picking(1e-4)).to_gaze()
    assert same(cold, model.generate(video, caps=[8, 8]).to_gaze())


def test_sampling_has_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, 5.0]).expand(20000, 1, 4).clone()
    taken = torch.zeros(20000, 4, dtype=torch.bool)
    taken[:, 3] = True
    generator = torch.Generator().manual_seed(0)
    ids = pick_block(logits, taken, Picking(2.0, generator))
    share = torch.bincount(ids[:, 0], minlength=4) / 20000
    expected = (torch.tensor([0.0, 1.0, 2.0]) / 2).softmax(0)
    torch.testing.assert_close(share[:3], expected, atol=0.015, rtol=0)
    assert share[3] == 0


@given(st.integers(0, 1000))
@FEW
def test_picking_in_turn(seed):
    """The quick way through distinct heads gives what picking one by one gives."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 6, generator=generator).round()  # ties and conflicts
    taken = torch.rand(3, 6, generator=generator) < 0.2
    taken[:, :4] = False
    expected, seen = [], taken.clone()
    for head in range(4):
        best = logits[:, head].masked_fill(seen, float("-inf")).argmax(-1)
        seen[torch.arange(3), best] = True
        expected.append(best)
    updated = taken.clone()
    assert pick_block(logits, updated, Picking()).equal(torch.stack(expected, 1))
    assert updated.equal(seen)


def test_a_used_past_is_refused():
    model, video = tiny_model(), tiny_video(1, 3)
    call = {"gazing_ratio": 0.5, "generate_only": True, "use_cache": True}
    first = model({"video": video[:, :1]}, **call)
    model({"video": video[:, 1:2]}, past_key_values=first["past_key_values"], **call)
    with pytest.raises(SelectorError, match=r"ends at frame 1.*gone on to frame 2"):
        model({"video": video[:, 1:2]}, past_key_values=first["past_key_values"], **call)
    with pytest.raises(SelectorError, match="without past_key_values"):
        model({"video": video}, past_conv_values=first["past_conv_values"])
    with pytest.raises(SelectorError, match="watches 1 clips, got frames of 2"):
        model(
            {"video": tiny_video(2, 1)},
            past_key_values=model({"video": video}, **call)["past_key_values"],
            **call,
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"inputs": {"frames": torch.zeros(1)}}, "no video"),
        ({"inputs": {"video": torch.zeros(2, 3, 64, 64)}}, r"got \(2, 3, 64, 64\)"),
        ({"inputs": {"video": torch.zeros(1, 0, 3, 64, 64)}}, r"got \(1, 0, 3, 64, 64\)"),
        ({"inputs": {"video": torch.zeros(1, 1, 3, 64, 64).byte()}}, "uint8"),
        ({"inputs": {"video": torch.full((1, 1, 3, 64, 64), torch.nan)}}, "NaN"),
        ({"gazing_ratio": 0.0}, r"\(0, 1\], got 0"),
        ({"gazing_ratio": [0.5, 1.5]}, r"\(0, 1\]"),
        ({"gazing_ratio": [0.5]}, "1 ratios given"),
        ({"target_scales": [64, 128]}, "belong together"),
        ({"target_scales": [128], "target_patch_size": 16}, "1 target scales.*2 scales"),
        ({"target_scales": [64, 128], "target_patch_size": 16}, "128 x 128 pixels, got 64 x 64"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, words):
    call = {"inputs": {"video": tiny_video(1, 2)}, "gazing_ratio": 0.5, **call}
    with pytest.raises(ValueError, match=words):
        tiny_model()(**call)


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
