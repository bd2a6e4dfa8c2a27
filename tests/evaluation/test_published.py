"""Published shares of patches, and what lies between them."""

import pytest

from autogaze.evaluation.encode import AT_30_FPS, AT_224_PIXELS, published_ratio


def test_published_points_are_met():
    for fps, share in AT_224_PIXELS:
        assert published_ratio(fps, 224) == pytest.approx(share)
    for pixels, share in AT_30_FPS:
        assert published_ratio(30, pixels) == pytest.approx(share)


def test_between_them_more_frames_and_more_pixels_need_less_of_each():
    rates = [published_ratio(fps, 448) for fps in (1, 2, 5, 12, 25, 30)]
    assert rates == sorted(rates, reverse=True)
    sides = [published_ratio(10, pixels) for pixels in (224, 300, 600, 1000, 2000)]
    assert sides == sorted(sides, reverse=True)


def test_rate_and_resolution_are_independent_factors():
    assert published_ratio(1, 896) == pytest.approx(0.205 * 0.040 / 0.069)


def test_outside_the_nearest_published_point_holds():
    assert published_ratio(0.1, 100) == pytest.approx(0.205)
    assert published_ratio(240, 224) == pytest.approx(0.069)
