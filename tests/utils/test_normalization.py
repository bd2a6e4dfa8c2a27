"""Pixel statistics, there and back."""

import pytest
import torch

from autogaze.utils.normalization import CLIP, IMAGENET, SIGLIP


@pytest.mark.parametrize("statistics", [IMAGENET, CLIP, SIGLIP])
def test_the_mean_is_zero_and_a_standard_deviation_one(statistics):
    mean, std = (torch.tensor(x)[:, None, None] for x in (statistics.mean, statistics.std))
    rgb = torch.stack([mean, mean + std])  # (2, 3, 1, 1)
    pixels = statistics.normalise(rgb)
    torch.testing.assert_close(
        pixels, torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1)
    )
    torch.testing.assert_close(statistics.denormalise(pixels), rgb)


def test_siglip_pixels_lie_between_minus_one_and_one():
    assert SIGLIP.normalise(
        torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    ).unique().tolist() == [-1, 1]
