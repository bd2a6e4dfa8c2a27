"""The metrics of `bench quality`."""

import pytest
import torch

from autogaze import Gaze
from autogaze.evaluation.quality.metrics import (
    FeatureMetric,
    MeasuredClips,
    Metric,
    VideoMAEMetric,
    efficientnet_metric,
)
from autogaze.reconstruction.canvas import reconstruct
from autogaze.tasks.video_mae import VideoMAETask
from tests.evaluation.quality.tiny import PYRAMID, compared, save_video_mae_checkpoint
from tests.reconstruction.efficientnets import random_efficientnet


def losses(metric: Metric, batch: MeasuredClips, gaze: Gaze) -> torch.Tensor:
    return metric.losses(batch, gaze, reconstruct(batch.frames, gaze))


def centre(frames: torch.Tensor, ratio: float) -> Gaze:
    return compared("centre").selector.select(frames, ratio=ratio)


def test_features_are_compared_place_by_place_by_their_direction():
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(2, 3, 3, 64, 64)
    batch = MeasuredClips(red)
    quarter = Gaze(PYRAMID, torch.tensor([0] * 6), torch.ones(2, 3, dtype=torch.long))
    colours = FeatureMetric(lambda pictures: [3 * (2 * pictures - 1)])
    # One patch of the coarsest scale shows red, the rest is grey, which has no direction.
    assert losses(colours, batch, quarter).flatten().tolist() == pytest.approx([1.5] * 6)
    assert losses(colours, batch, Gaze.everything(PYRAMID, 2, 3)).abs().max() < 1e-6

    maps = [lambda x: 3 * (2 * x - 1), lambda x: (2 * x - 1).mean((2, 3))]
    both = FeatureMetric(lambda pictures: [view(pictures) for view in maps])
    # The means of red and of red on grey have one direction: half of the loss is gone.
    assert losses(both, batch, quarter).flatten().tolist() == pytest.approx([0.75] * 6)


def test_unlike_features_lose_more():
    frames = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    metric = efficientnet_metric(random_efficientnet("lite1"))
    batch = MeasuredClips(frames)
    few, many = (losses(metric, batch, centre(frames, ratio)) for ratio in (0.05, 0.8))
    assert few.shape == (1, 2)
    assert (many > 0).all()
    assert (many < few).all()
    assert (few < 4).all()


def test_the_frames_own_features_are_computed_once():
    seen: list[int] = []

    def features(pictures):
        seen.append(len(pictures))
        return [pictures]

    frames = torch.rand(1, 2, 3, 64, 64)
    metric, batch = FeatureMetric(features), MeasuredClips(frames)
    for ratio in (0.1, 0.2, 0.4):
        losses(metric, batch, centre(frames, ratio))
    assert seen == [2] * 4
    losses(metric, MeasuredClips(frames), centre(frames, 0.1))
    assert seen == [2] * 6


@torch.inference_mode()
def test_networks_may_measure_a_part_of_the_frames(tmp_path):
    frames = torch.rand(2, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gaze = compared("random").selector.select(frames, ratio=0.3)
    whole, part = MeasuredClips(frames), MeasuredClips(frames, 3, (0, 4))
    numbers = [[0, 3], [1, 4]]  # begins at 4 modulo 3
    features = efficientnet_metric(random_efficientnet("lite1"))
    expected = losses(features, whole, gaze)[[[0], [1]], numbers]
    assert torch.allclose(losses(features, part, gaze), expected, rtol=1e-4)

    task = VideoMAETask.from_checkpoint(save_video_mae_checkpoint(tmp_path / "mae"))
    mae = VideoMAEMetric(task, "l1")
    expected = [task(frames[clip][None], gaze[clip], numbers[clip]).losses for clip in (0, 1)]
    assert torch.equal(losses(mae, part, gaze), torch.cat(expected))
    assert torch.equal(losses(mae, whole, gaze), task(frames, gaze, range(6)).losses)
