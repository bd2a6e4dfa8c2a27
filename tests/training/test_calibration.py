"""Loss heads that predict what is found, and selectors that stop where they are asked to."""

import copy

import pytest
import torch

from autogaze.errors import TrainingError
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.scoring import loss_states
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.calibration import (
    CalibrationOptions,
    HeadSamples,
    calibrate,
    fit_head,
    fit_line,
    num_passes,
)
from tests.datasets.pictures import some_frames
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

HEAD = "gazing_model.gaze_decoder.task_loss_prediction_head.weight"


def test_the_states_that_losses_are_read_from():
    model, video = tiny_model(), tiny_video(2, 3)
    rows = model.generate(video, caps=[9, 14, 3], threshold=threshold_of(model, video))
    decoder = model.gazing_model.gaze_decoder
    with torch.no_grad():
        tokens, _ = model.gazing_model.vision_tokens(video)
        states, heads = loss_states(decoder, tokens, rows)
        read = (states * decoder.task_loss_prediction_head.weight[heads]).sum(-1)
        scores = model.score(video, rows)
    torch.testing.assert_close(read[rows.kept], scores.predicted_losses[rows.kept])


def test_heads_are_fitted_to_measured_losses():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(3, 8, generator=generator, dtype=torch.float64)
    states = torch.rand(600, 8, generator=generator, dtype=torch.float64)
    heads = torch.randint(0, 2, (600,), generator=generator)
    losses = (states * true[heads]).sum(1)
    samples = HeadSamples(states, heads, losses)
    start = torch.zeros_like(true)
    fitted = fit_head(start, samples, 0.01)
    torch.testing.assert_close(fitted[:2], true[:2], rtol=0.05, atol=0.02)
    assert torch.equal(fitted[2], start[2])  # nothing is known of it
    assert samples.error(fitted, 0.01) < 0.01 < 0.9 < samples.error(start, 0.01)


def test_lines_go_through_the_measured_losses():
    places = [0.01, 0.02, 0.05]
    line = fit_line(places, [0.8 * place + 0.003 for place in places])
    assert line == pytest.approx((0.8, 0.003))
    assert fit_line([0.1], [0.15]) == (pytest.approx(1.5), 0)
    assert fit_line([0.1], [9.0])[0] == pytest.approx(2), "one round goes no further"


@pytest.mark.parametrize(
    ("places", "values"),
    [
        ([0.01, 0.015], [0.02, 0.008]),  # it would fall
        ([0.02, 0.021], [0.0194, 0.0216]),  # noise would make it steep
        ([0.01, 0.05], [0.02, 0.0255]),  # nearly flat: predictions would say nothing any more
        ([0.1, 0.1], [0.11, 0.12]),
    ],
)
def test_ill_determined_lines_only_scale(places, values):
    scale, offset = fit_line(places, values)
    assert offset == 0
    ratios = [value / place for value, place in zip(values, places, strict=True)]
    assert min(ratios) < scale < max(ratios)


def noisy_clips(count):
    """Grey, with noise that no canvas keeps: more patches always lower the loss."""
    return [(112 + some_frames(3, 64, seed).float() / 8).byte() for seed in range(count)]


def test_calibrated_weights_stop_nearer_to_where_they_are_asked_to():
    model, clips = tiny_model(decode_positions="sequential", K=1), noisy_clips(6)
    task = CanvasReconstruction(model.pyramid)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []
    options = CalibrationOptions((0.02, 0.025), rounds=4)
    report = calibrate(model, task, clips, options, lambda: calls.append(1))
    assert len(calls) == num_passes(len(clips), options)
    assert report.error_after < report.error_before
    assert max(map(abs, report.excess[-1])) < 0.15
    assert sum(map(abs, report.excess[-1])) < 0.7 * sum(map(abs, report.excess[0]))
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert changed == [HEAD]
    # What is reported can be found again.
    frames = torch.stack(clips).float() / 255
    for threshold, excess in zip(options.thresholds, report.excess[-1], strict=True):
        gaze = model.generate(normalise(frames), threshold=threshold).to_gaze()
        assert float(canvas_losses(frames, gaze).mean()) == pytest.approx(
            threshold * (1 + excess), rel=1e-4
        )


@pytest.mark.parametrize("threshold", [1e-6, 0.4])
def test_thresholds_out_of_reach_are_refused(threshold):
    model = tiny_model(decode_positions="sequential")
    with pytest.raises(TrainingError, match=f"at {threshold:g}.*leave out"):
        calibrate(
            model,
            CanvasReconstruction(model.pyramid),
            noisy_clips(2),
            CalibrationOptions((threshold,), gazes=1, rounds=6),
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_keep_their_precision_whatever_they_gaze_in(dtype):
    model, clips = tiny_model(decode_positions="sequential", K=1), noisy_clips(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task, options = CanvasReconstruction(model.pyramid), CalibrationOptions((0.02,), 1, rounds=1)
    report = calibrate(model, task, clips, options, dtype=dtype)
    after = model.state_dict()
    assert [n for n, value in after.items() if not torch.equal(value, before[n])] == [HEAD]
    assert after[HEAD].dtype == torch.float32
    assert not torch.equal(after[HEAD], after[HEAD].bfloat16().float())
    # What is reported is found again in that precision.
    gazing, losses = copy.deepcopy(model).to(dtype), []
    for clip in clips:
        frames = clip[None].float() / 255
        gaze = gazing.generate(normalise(frames).to(dtype), threshold=0.02).to_gaze()
        losses.append(float(canvas_losses(frames, gaze).mean()))
    assert sum(losses) / 2 == pytest.approx(0.02 * (1 + report.excess[-1][0]), rel=1e-4)
