"""Random and centre: the controls."""

import torch

from autogaze.geometry import PatchPyramid
from autogaze.selectors.controls import Centre, Random

PYRAMID = PatchPyramid((8, 16, 24), 4)  # 4 + 16 + 36 patches
FRAMES = torch.zeros(2, 3, 3, 24, 24)


def test_random_repeats_itself_from_the_same_seed_only():
    def chosen(seed):
        generator = torch.Generator().manual_seed(seed)
        return Random(PYRAMID).select(FRAMES, ratio=0.5, generator=generator)

    first = chosen(1)
    assert torch.equal(first.ids, chosen(1).ids)
    assert not torch.equal(first.ids, chosen(2).ids)
    assert not torch.equal(first.frame(0, 0), first.frame(1, 0))
    assert not torch.equal(first.frame(0, 0), first.frame(0, 1))


def test_random_follows_the_global_seed_without_a_generator():
    torch.manual_seed(3)
    first = Random(PYRAMID).select(FRAMES)
    torch.manual_seed(3)
    assert torch.equal(Random(PYRAMID).select(FRAMES).ids, first.ids)
    assert first.lengths.tolist() == [[5] * 3] * 2  # a tenth of 56


def test_random_is_uniform_over_all_scales():
    frames = torch.zeros(1, 500, 3, 24, 24, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    gaze = Random(PYRAMID).select(frames, ratio=0.5, generator=generator)
    counts = gaze.mask.sum(dim=(0, 1))  # 28 of 56: binomial(500, 1/2), deviation 11
    assert counts.min() > 250 - 56
    assert counts.max() < 250 + 56
    assert Random(PYRAMID).select(FRAMES, ratio=1.0).lengths.unique().tolist() == [56]


def test_centre_takes_the_nearest_coarse_ones_first():
    gaze = Centre(PYRAMID).select(FRAMES, ratio=1.0)
    boxes = PYRAMID.rectangles[gaze.frame(0, 0)]
    distance = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 12).norm(dim=1)
    assert (distance.diff() >= -1e-4).all()
    tied = distance.diff().abs() < 1e-4
    assert (gaze.frame(0, 0).diff()[tied] > 0).all()
    # Four cells of scale 24 touch the centre, then four of scale 16.
    assert gaze.frame(0, 0)[:8].tolist() == [34, 35, 40, 41, 9, 10, 13, 14]
    assert torch.equal(gaze.frame(0, 0), gaze.frame(1, 2))


def test_the_patch_in_the_middle_comes_first():
    pyramid = PatchPyramid()
    gaze = Centre(pyramid).select(torch.zeros(1, 1, 3, 224, 224))
    assert int(gaze.ids[0]) == pyramid.id(112, 3, 3)
    assert gaze.num_patches == 26
