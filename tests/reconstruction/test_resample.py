"""Resampled scales: box averages down, bicubic up."""

import math

import pytest
import torch
from torch.nn import functional as F

from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.resample import resampled_scales
from tests.selectors.clips import (
    random_clips,
)


@pytest.mark.parametrize(
    ("scales", "patch"),
    [
        ((32, 64, 112, 224), 16),
        ((48, 80), 16),
        ((4, 8), 4),
        ((56, 112, 196, 392), 14),
        ((6, 10), 2),
        ((16, 144), 16),
    ],
)
def test_box_averages_are_enlarged_bicubically(scales, patch):
    pyramid = PatchPyramid(scales, patch)
    side = pyramid.side
    frame = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    resampled = resampled_scales(frame, pyramid)
    assert resampled.shape == (2, len(scales), 3, side, side)
    assert torch.equal(resampled[:, -1], frame)
    for level, scale in enumerate(scales[:-1]):
        # Repeating pixels makes the box average a plain mean over whole squares.
        common = math.gcd(scale, side)
        times, window = scale // common, side // common
        large = frame.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)
        small = F.avg_pool2d(large, window)
        expected = F.interpolate(small, size=(side, side), mode="bicubic").clamp(0, 1)
        torch.testing.assert_close(resampled[:, level], expected, atol=2e-5, rtol=0)


def test_a_flat_frame_is_the_same_at_every_scale():
    pyramid = PatchPyramid()
    resampled = resampled_scales(torch.full((1, 3, 224, 224), 0.3), pyramid)
    torch.testing.assert_close(resampled, torch.full_like(resampled, 0.3))


def test_they_do_not_depend_on_autocast_or_batch():
    pyramid = PatchPyramid()
    frames = random_clips(pyramid, 3, 1, seed=0)[:, 0]
    resampled = resampled_scales(frames, pyramid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resampled_scales(frames, pyramid), resampled)
    torch.testing.assert_close(
        resampled_scales(frames[1], pyramid), resampled[1], atol=1e-6, rtol=0
    )
