"""Every selector at every budget: its own gazes, those of other clips, and their losses."""

import numpy as np
import pytest
import torch

from autogaze import Gaze
from autogaze.clips import frame_caps
from autogaze.evaluation.quality.clips import read_batch
from autogaze.evaluation.quality.measure import measure, num_steps
from autogaze.evaluation.quality.metrics import CanvasMetric
from autogaze.evaluation.quality.selectors import shuffled
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.utils.seeding import seeded
from tests.evaluation.quality.tiny import PYRAMID, compared, some_clips, tiny_learned

CPU = torch.device("cpu")
SOURCES = {"static": ["a", "b", "c", "a"], "moving": ["p", "q", "r"]}
RATIOS = (0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def clips():
    return some_clips(SOURCES)


@pytest.fixture(scope="module")
def selectors():
    return [tiny_learned(), *map(compared, ("greedy", "run-length", "random", "centre"))]


@pytest.fixture(scope="module")
def measured(clips, selectors):
    return measure(clips, selectors, [CanvasMetric()], RATIOS, batch=3, device=CPU)


def of(measured, name: str) -> np.ndarray:
    """(budgets, N) canvas losses of a row."""
    names = [row.name for row in measured.rows]
    return measured.losses[0, names.index(name)]


def test_everybody_but_the_controls_is_also_shuffled(measured):
    assert [row.name for row in measured.rows] == [
        *("tiny", "greedy", "run-length", "random", "centre"),
        *("tiny (shuffled)", "greedy (shuffled)", "run-length (shuffled)"),
        "greedy (prior)",
    ]


def test_losses_are_those_of_the_selectors_own_gazes(measured, clips, selectors):
    frames = read_batch(clips)
    for one in selectors:
        gaze = one.select(frames, 0.3, seeded("quality", 0)).gaze
        expected = canvas_losses(frames.frames, gaze).mean(1)
        assert of(measured, one.name)[1] == pytest.approx(expected.numpy(), rel=1e-5)


def test_shuffled_rows_are_served_the_gazes_of_other_videos(measured, clips, selectors):
    frames, others = read_batch(clips), shuffled(clips)
    own = selectors[2].select(frames, 0.3, seeded("quality", 0)).gaze
    given = Gaze.cat_clips([own[other] for other in others])
    expected = canvas_losses(frames.frames, given).mean(1)
    assert of(measured, "run-length (shuffled)")[1] == pytest.approx(expected.numpy(), rel=1e-5)
    assert of(measured, "run-length (shuffled)")[1] != pytest.approx(of(measured, "run-length")[1])


def test_shuffled_rows_take_as_much_in_every_kind(measured, clips):
    names = [row.name for row in measured.rows]
    own, shuffled = (
        measured.shares[names.index(name)] for name in ("run-length", "run-length (shuffled)")
    )
    assert not np.array_equal(own, shuffled)
    for kind in SOURCES:
        members = [clip.kind == kind for clip in clips]
        assert own[:, members].mean(1) == pytest.approx(shuffled[:, members].mean(1))


def test_gazing_at_everything_loses_nothing(measured):
    for name in ("tiny", "random", "centre", "tiny (shuffled)", "greedy (prior)"):
        assert of(measured, name)[2] == pytest.approx(0, abs=1e-7)


def test_more_patches_lose_less(measured):
    means = of(measured, "random").mean(1)
    assert (np.diff(means) < 0).all()


def test_figures_do_not_depend_on_batches(measured, clips, selectors):
    again = measure(clips, selectors, [CanvasMetric()], RATIOS, batch=7, device=CPU)
    assert again.losses == pytest.approx(measured.losses, rel=1e-5)
    assert np.array_equal(again.shares, measured.shares)


def test_another_seed_draws_other_random_gazes(measured, clips, selectors):
    again = measure(clips, selectors, [CanvasMetric()], RATIOS, batch=3, device=CPU, seed=1)
    assert of(again, "random")[0] != pytest.approx(of(measured, "random")[0])
    assert of(again, "centre")[0] == pytest.approx(of(measured, "centre")[0])


def test_weights_that_spread_a_clips_budget_are_capped_per_frame_here(clips):
    spread = {
        "sample_strategy_during_training": "dirichlet",
        "sample_strategy_during_inference": "dirichlet",
        "dirichlet": {"alpha": 1.0},
    }
    one = tiny_learned("spread", gazing_ratio_each_frame_config=spread)
    gaze = one.select(read_batch(clips), 0.4, seeded("spread")).gaze
    assert gaze.lengths.tolist() == [frame_caps(0.4, 3, PYRAMID.num_patches)] * len(clips)
    alone = one.select(read_batch(clips[:1]), 0.4, seeded("spread")).gaze
    assert torch.equal(alone.ids, gaze[0].ids)


def test_the_progress_bar_ends_where_the_work_does(clips, selectors):
    steps: list[str] = []
    measure(clips, selectors, [CanvasMetric()], (0.1,), batch=3, device=CPU, step=steps.append)
    assert len(steps) == num_steps(selectors, len(clips), 3)
