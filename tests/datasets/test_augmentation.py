"""Augmentation changes all frames of a clip alike."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.datasets.augmentation import Augmentation, ResizedCrop, augment
from autogaze.errors import TrainingError
from autogaze.utils.seeding import seeded
from tests.datasets.pictures import some_frames


@given(seed=st.integers(0, 10**6), reverse=st.booleans())
@settings(deadline=None, max_examples=50)
def test_all_frames_change_alike(seed, reverse):
    still = some_frames(1).expand(3, -1, -1, -1)
    changed = augment(still, Augmentation(reverse=reverse), seeded(seed))
    assert changed.shape == still.shape
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2])


def test_no_augmentation_changes_nothing():
    nothing = Augmentation(min_crop=1.0, flip=False, brightness=0, contrast=0)
    frames = some_frames()
    assert torch.equal(augment(frames, nothing, seeded(0)), frames)


def test_flips_and_reversals_happen_half_of_the_time():
    only = Augmentation(min_crop=1.0, flip=True, reverse=True, brightness=0, contrast=0)
    frames = some_frames()
    kinds = {
        "plain": frames,
        "flipped": frames.flip(-1),
        "reversed": frames.flip(0),
        "both": frames.flip(0, -1),
    }
    found = Counter(
        next(kind for kind, wanted in kinds.items() if torch.equal(changed, wanted))
        for changed in (augment(frames, only, seeded(number)) for number in range(100))
    )
    assert min(found[kind] for kind in kinds) > 10


def test_a_resized_crop_has_area_and_ratio_in_range():
    crop = ResizedCrop(0.2, 0.4, 0.5, 2.0)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([crop.draw(1000, 1000, generator) for _ in range(300)]).double()
    areas, ratios = sizes.prod(1) / 1e6, sizes[:, 1] / sizes[:, 0]
    assert 0.199 < areas.min() < 0.25
    assert 0.35 < areas.max() < 0.401
    assert 0.499 < ratios.min() < 0.7
    assert 1.4 < ratios.max() < 2.01
    assert ratios.log().mean().abs() < 0.1


def test_a_resized_crop_of_everything_changes_nothing():
    frames = some_frames(2)
    same = Augmentation(1.0, False, False, 0.0, 0.0, ResizedCrop(1.0, 1.0, 1.0, 1.0))
    assert augment(frames, same, torch.Generator()).equal(frames)
    other = Augmentation(1.0, False, False, 0.0, 0.0, ResizedCrop(0.1, 0.1, 2.0, 2.0))
    assert augment(frames, other, torch.Generator().manual_seed(0)).shape == frames.shape


@pytest.mark.parametrize(
    "values", [(0.0, 1.0, 1.0, 1.0), (0.5, 0.4, 1.0, 1.0), (0.5, 1.1, 1.0, 1.0), (0.5, 1.0, 0.0, 1.0),
               (0.5, 1.0, 2.0, 1.0), (0.5, 1.0, 1.0, float("inf"))]
)  # fmt: skip
def test_resized_crops_that_cannot_be(values):
    with pytest.raises(TrainingError):
        ResizedCrop(*values)
