"""Early stopping: predicted against actual loss."""

import pytest
import torch

from autogaze.evaluation.quality.clips import read_batch
from autogaze.evaluation.quality.metrics import CanvasMetric
from autogaze.evaluation.quality.thresholds import can_stop, measure_thresholds
from autogaze.reconstruction.canvas import canvas_losses
from tests.evaluation.quality.tiny import PYRAMID, compared, some_clips, tiny_learned

CPU = torch.device("cpu")
SOURCES = {"static": ["a", "b", "c", "a"], "moving": ["p", "q", "r"]}


@pytest.fixture(scope="module")
def clips():
    return some_clips(SOURCES)


def test_frames_stop_where_the_predicted_loss_is_low_enough(clips):
    learned = tiny_learned(K=1, decode_positions="sequential")
    frames, threshold = read_batch(clips), 1e-3  # untrained, half of its predictions are below
    report = measure_thresholds(clips, [learned], CanvasMetric(), [threshold], batch=4, device=CPU)
    point = report.points[0]
    assert (point.name, point.group, report.metric) == ("tiny", "all", "canvas")
    assert 1 / PYRAMID.num_patches < point.share < 1
    assert point.at_last < 1
    gaze = learned.selector.select(frames, loss=threshold)
    kinds = torch.tensor([[clip.kind == kind for clip in clips] for kind in SOURCES]).float()
    kinds /= kinds.sum(1, keepdim=True)
    actual = (kinds @ canvas_losses(frames.frames, gaze).mean(1)).mean()
    assert point.actual.mean == pytest.approx(float(actual), rel=1e-5)
    assert point.excess.mean == pytest.approx(float(actual) / threshold - 1, rel=1e-4)
    shares = (kinds @ (gaze.lengths / PYRAMID.num_patches).mean(1)).mean()
    assert point.share == pytest.approx(float(shares))
    if point.at_last == 0:
        assert point.predicted <= threshold


def test_a_selector_that_measures_the_loss_stops_where_it_says(clips):
    greedy = compared("greedy")
    assert can_stop(greedy.selector, "canvas")
    assert not can_stop(greedy.selector, "video-mae")
    frames, threshold = read_batch(clips), 0.1
    report = measure_thresholds(clips, [greedy], CanvasMetric(), [threshold], batch=4, device=CPU)
    losses = canvas_losses(frames.frames, greedy.selector.select(frames, loss=threshold))
    assert losses.max() <= threshold  # so that below it is by whole patches alone
    for point in report.points:
        assert point.predicted == pytest.approx(point.actual.mean, rel=1e-4)
        assert point.actual.mean < threshold
        assert point.excess.mean < 0
    assert {point.group for point in report.points} == {"all", *SOURCES}


def test_bins_hold_every_frame_once_and_ascend(clips):
    learned = tiny_learned(K=1, decode_positions="sequential")
    thresholds = [0.0001, 1.0]
    report = measure_thresholds(clips, [learned], CanvasMetric(), thresholds, batch=4, device=CPU)
    for kind, sources in SOURCES.items():
        bins = [part for part in report.bins if part.kind == kind]
        assert sum(part.frames for part in bins) == len(thresholds) * 3 * len(sources)
        predicted = [part.predicted for part in bins]
        assert predicted == sorted(predicted)
