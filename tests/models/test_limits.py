"""Caps and thresholds of their own for every row: a batch is decoded at once and equals its rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze
from autogaze.errors import SelectorError
from autogaze.models.autogaze.decoding import Picking
from tests.gazes import same
from tests.models.test_generation import POSITIONS, threshold_of
from tests.models.tiny import tiny_model, tiny_video

FEW = settings(max_examples=6, deadline=None)
SEEDS = (11, 12, 13)
CAPS = st.lists(st.lists(st.integers(1, 20), min_size=3, max_size=3), min_size=3, max_size=3)


def thresholds_of(model, video):
    """One that never stops, one that stops somewhere, one that stops at once."""
    return torch.tensor([-1e9, threshold_of(model, video), 1e9])


def rows_alone(model, video, caps, thresholds, temperature):
    """What each row gazes at when it is decoded by itself, with plain limits."""
    return [
        model.generate(
            video[row : row + 1],
            caps=caps[row].tolist(),
            threshold=None if thresholds is None else float(thresholds[row]),
            picking=Picking(temperature, row_seeds=SEEDS[row : row + 1]),
        ).to_gaze()
        for row in range(3)
    ]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("temperature", [0, 1.0])
@given(
    CAPS, st.integers(0, 50), st.sampled_from([1, 3, 4]), st.sampled_from(POSITIONS), st.booleans()
)
@FEW
def test_rows_with_limits_of_their_own_equal_each_row_alone(
    static, temperature, caps, seed, K, positions, stop
):
    model = tiny_model(seed, decode_positions=positions, K=K)
    video, caps = tiny_video(3, 3, seed), torch.tensor(caps)
    thresholds = thresholds_of(model, video) if stop else None
    alone = rows_alone(model, video, caps, thresholds, temperature)
    model.static_shapes = static
    together = model.generate(
        video, caps=caps, threshold=thresholds, picking=Picking(temperature, row_seeds=SEEDS)
    ).to_gaze()
    assert (together.lengths <= caps).all()
    if not stop:
        assert together.lengths.equal(caps)
    for row in range(3):
        assert same(together[row], alone[row])


@pytest.mark.parametrize("stop", [False, True])
def test_equal_limits_are_the_plain_ones(stop):
    """The very slots, padding included."""
    model, video, caps = tiny_model(), tiny_video(3, 3), [15, 7, 2]
    threshold = threshold_of(model, video) if stop else None
    plain = model.generate(video, caps=caps, threshold=threshold).to_padded()
    own = model.generate(
        video,
        caps=torch.tensor([caps] * 3),
        threshold=None if threshold is None else torch.tensor([threshold] * 3),
    ).to_padded()
    for key in ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame"):
        assert plain[key].equal(own[key]), key


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_repetitions_are_rows_of_the_same_clips(batch, static):
    model, video = tiny_model(), tiny_video(2, 3)
    caps, picking = torch.randint(1, 21, (6, 3)), Picking(1.0, row_seeds=tuple(range(6)))
    whole = model.generate(video.repeat(3, 1, 1, 1, 1), caps=caps, picking=picking).to_gaze()
    model.static_shapes = static
    stream = model.stream(2, num_frames=3, repetitions=3)
    stream.batch = batch
    parts = [
        model.generate(frame, caps=caps[:, t : t + 1], picking=picking, stream=stream).to_gaze()
        for t, frame in enumerate(video.split(1, 1))
    ]
    assert len(stream.states) == -(-6 // batch)
    assert same(Gaze.cat_frames(parts), whole)
    assert not same(whole[0], whole[2]), "repetitions are sampled one by one"


def test_a_clip_is_seen_once_for_all_its_rows(monkeypatch):
    model, video = tiny_model(), tiny_video(2, 3)
    seen, see = [], model.see
    monkeypatch.setattr(model, "see", lambda clips, *rest: seen.append(len(clips)) or see(clips))
    model.generate(video, caps=[2, 2, 2], repetitions=4)
    assert seen == [2]


def test_sampling_up_to_the_last_patch():
    """Where heads outnumber the patches that are left."""
    video = tiny_video(1, 1)
    for static in (False, True):
        model = tiny_model(K=3)
        model.static_shapes = static
        generator = torch.Generator().manual_seed(0)
        gaze = model.generate(video, picking=Picking(1.0, generator)).to_gaze()
        assert gaze.ids.sort().values.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"caps": [4, 4]}, r"one a frame \(3\).*got 2 a row"),
        ({"caps": torch.ones(3, 3).long()}, r"\(2, 3\), got \(3, 3\)"),
        ({"caps": [4, 0, 4]}, r"\[1, 20\], got 0"),
        ({"caps": torch.tensor([[4, 4, 4], [4, 21, 4]])}, r"\[1, 20\], got 21"),
        ({"threshold": torch.zeros(3)}, r"each of 2 rows, got \(3,\)"),
    ],
)
def test_limits_that_do_not_fit_are_refused(limits, words):
    with pytest.raises(SelectorError, match=words):
        tiny_model().generate(tiny_video(2, 3), **limits)
