"""Augmentation changes all frames of a clip alike."""

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.datasets.augmentation import Augmentation, augment
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
