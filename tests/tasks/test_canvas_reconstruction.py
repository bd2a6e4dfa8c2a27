"""The canvas as a task, and what all tasks share."""

import pytest
import torch

from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import reconstruct
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from tests.tasks.material import some_clips, some_gaze

PYRAMID = PatchPyramid((16, 32), 8)


def test_losses_and_pictures_are_the_canvas_ones():
    frames, gaze = some_clips(), some_gaze(PYRAMID)
    whole = reconstruct(frames, gaze)
    output = CanvasReconstruction(PYRAMID)(frames, gaze, [2, 0])
    assert output.frames == (2, 0)
    assert torch.equal(output.losses, whole.losses[:, [2, 0]])
    assert torch.equal(output.reconstruction, whole.frames[:, [2, 0]])


def test_everything_gazed_at_costs_nothing():
    frames, gaze = some_clips(), Gaze.everything(PYRAMID, 2, 4)
    output = CanvasReconstruction(PYRAMID)(frames, gaze, range(4))
    assert not output.losses.any()


def test_rewards_and_metrics():
    frames, gaze = some_clips(), some_gaze(PYRAMID)
    output = CanvasReconstruction(PYRAMID)(frames, gaze, [1, 3])
    assert torch.equal(output.reward, -output.losses)
    assert torch.equal(output.loss, output.losses.mean(1))
    metrics = output.metrics()
    assert list(metrics) == ["loss"]
    assert torch.equal(metrics["loss"], output.losses)


def test_frames_to_score_are_drawn_from_the_generator():
    task = CanvasReconstruction(PYRAMID, recon_sample_rate=0.125)
    drawn = [task.draw_frames(16, torch.Generator().manual_seed(seed)) for seed in range(50)]
    assert all(len(frames) == 2 and list(frames) == sorted(set(frames)) for frames in drawn)
    assert set(sum(drawn, ())) == set(range(16))
    assert task.draw_frames(16, torch.Generator().manual_seed(3)) == drawn[3]
    assert len(task.draw_frames(2, torch.Generator())) == 1
    assert CanvasReconstruction(PYRAMID).draw_frames(3, torch.Generator()) == (0, 1, 2)


def test_bad_input():
    for rate in (0, -1, 1.5):
        with pytest.raises(TrainingError, match=rf"\(0, 1\].*{rate}"):
            CanvasReconstruction(PYRAMID, rate)
    task = CanvasReconstruction(PYRAMID)
    other = some_gaze(PatchPyramid((32,), 8))
    with pytest.raises(TrainingError, match=r"32 / 8.*16\+32 / 8"):
        task(some_clips(), other, [0])
    with pytest.raises(TrainingError, match=r"\(2, 4, 3, 32, 32\).*\(2, 3, 3"):
        task(some_clips(frames=3), some_gaze(PYRAMID), [0])
