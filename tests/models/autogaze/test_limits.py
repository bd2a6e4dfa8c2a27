"""Caps and stopping thresholds, for every row its own, and how a config draws them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.errors import CheckpointError, SelectorError
from autogaze.models.autogaze.limits import draw_settings
from autogaze.models.autogaze.sampling import Sampling
from tests.gazes import same
from tests.models.autogaze.tiny import POSITIONS, threshold_of, tiny_config, tiny_model, tiny_video

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
            sampling=Sampling(temperature, row_seeds=SEEDS[row : row + 1]),
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
        video, caps=caps, threshold=thresholds, sampling=Sampling(temperature, row_seeds=SEEDS)
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


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"caps": [4, 4]}, r"\(2, 3\), got \(2, 2\)"),
        ({"caps": torch.ones(3, 3).long()}, r"\(2, 3\), got \(3, 3\)"),
        ({"caps": [4, 0, 4]}, r"\[1, 20\], got 0"),
        ({"caps": torch.tensor([[4, 4, 4], [4, 21, 4]])}, r"\[1, 20\], got 21"),
        ({"threshold": torch.zeros(3)}, r"2 rows.*got \(3,\)"),
    ],
)
def test_limits_that_do_not_fit_are_refused(limits, words):
    with pytest.raises(SelectorError, match=words):
        tiny_model().generate(tiny_video(2, 3), **limits)


def draws(**options):
    generator = torch.Generator().manual_seed(0)
    config = tiny_config(**options)
    return [draw_settings(config, 4, training=True, generator=generator) for _ in range(300)]


def test_settings_are_drawn_as_the_config_says():
    ratios = {
        "sample_strategy_during_training": "exponential",
        "exponential": {"gazing_ratio_min": 0.02, "gazing_ratio_max": 0.5, "lambda": 10},
    }
    drawn = [draw.ratio for draw in draws(gazing_ratio_config=ratios)]
    assert min(drawn) >= 0.02
    assert max(drawn) <= 0.5
    assert sum(drawn) / 300 == pytest.approx(0.116, abs=0.015)  # mean of the cut exponential
    spread = {"sample_strategy_during_training": "dirichlet", "dirichlet": {"alpha": 3.0}}
    frames = [draw.ratio for draw in draws(gazing_ratio_each_frame_config=spread)]
    assert all(len(ratio) == 4 and min(ratio) >= 0 and max(ratio) <= 1 for ratio in frames)
    assert len({tuple(ratio) for ratio in frames}) == 300
    losses = {
        "sample_strategy_during_training": "uniform",
        "uniform": {"task_loss_requirement_min": 0.5, "task_loss_requirement_max": 1.0},
    }
    drawn = draws(
        task_loss_requirement_config=losses, has_task_loss_requirement_during_training=True
    )
    assert all(0.5 <= draw.threshold <= 1 for draw in drawn)
    assert sum(draw.threshold for draw in drawn) / 300 == pytest.approx(0.75, abs=0.03)
    unknown = {"sample_strategy_during_training": "never heard of"}
    with pytest.raises(CheckpointError, match="'never heard of'"):
        draws(gazing_ratio_config=unknown)
