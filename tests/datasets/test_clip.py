"""Batches, augmentation, mixtures."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, GazeLabels, TrainingClip, UnreadableClip, collate
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import GeometryError, TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.utils.seeding import integer, seeded, uniform
from tests.datasets.pictures import some_frames

PYRAMID = PatchPyramid((16, 32), 16)


def test_unreadable_clips_are_counted_not_replaced():
    good = TrainingClip(some_frames(), "a/b/c.mp4")
    bad = UnreadableClip("a/b/d.mp4", "truncated")
    batch = collate([good, bad, good])
    assert len(batch) == 2
    assert batch.frames.shape == (2, 4, 3, 32, 32)
    assert batch.names == ("a/b/c.mp4", "a/b/c.mp4")
    assert batch.unreadable == (bad,)
    nothing = collate([bad, bad])
    assert len(nothing) == 0
    assert len(nothing.unreadable) == 2


def test_frames_come_as_rgb_in_unit_range():
    batch = collate([TrainingClip(some_frames(), "x")])
    assert torch.equal(batch.rgb(), batch.frames / 255)


def test_labels_become_a_gaze():
    labels = GazeLabels(((3, 1), (), (0,), (4, 2, 0)), ())
    batch = collate([TrainingClip(some_frames(), "x", labels)] * 2)
    gaze = batch.gaze(PYRAMID)
    assert gaze.lengths.tolist() == [[2, 0, 1, 3]] * 2
    assert gaze.frame(1, 3).tolist() == [4, 2, 0]
    with pytest.raises(GeometryError, match=r"\[0, 4\)"):
        batch.gaze(PatchPyramid((32,), 16))
    with pytest.raises(TrainingError, match=r"x: no gaze labels.*autogaze label"):
        collate([TrainingClip(some_frames(), "x")]).gaze(PYRAMID)


def test_clips_of_two_sizes_make_no_batch():
    with pytest.raises(TrainingError, match=r"one length and size.*\(4, 3, 32, 32\).*\(4, 3, 16"):
        collate([TrainingClip(some_frames(), "x"), TrainingClip(some_frames(side=16), "y")])


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


def test_seeds():
    assert uniform(seeded("a", 1), 0, 1) == uniform(seeded("a", 1), 0, 1)
    assert uniform(seeded("a", 1), 0, 1) != uniform(seeded("a", 2), 0, 1)
    numbers = [integer(seeded("b", n), 3) for n in range(60)]
    assert set(numbers) == {0, 1, 2}


class Numbers(Dataset):
    """A dataset whose clips say what was asked for."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return key


def test_a_mixture_gives_every_clip_once_by_default():
    mixed = MixedClips([Numbers(3), Numbers(5)])
    assert len(mixed) == 8
    for epoch in (0, 1):
        found = [mixed.locate(ClipKey(epoch, number)) for number in range(8)]
        assert {(which, key.number) for which, key in found} == {
            *((0, n) for n in range(3)),
            *((1, n) for n in range(5)),
        }


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    total=st.integers(0, 40),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_a_mixture_keeps_its_shares(sizes, total, data):
    weights = data.draw(
        st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)), label="weights"
    )
    mixed = MixedClips([Numbers(size) for size in sizes], weights, num_clips=total)
    assert len(mixed) == total
    keys = [mixed.locate(ClipKey(2, number)) for number in range(total)]
    found = Counter(which for which, _ in keys)
    for which, weight in enumerate(weights):
        assert abs(found[which] - weight / sum(weights) * total) < 1
        numbers = Counter(key.number for place, key in keys if place == which)
        if found[which] >= sizes[which]:  # round after round
            assert max(numbers.values()) - min(numbers.values()) <= 1
    assert len(set(keys)) == total  # what comes again is drawn anew
    for first in range(total):  # a prefix of an epoch has the same shares
        begun = Counter(which for which, _ in keys[:first])
        for which in range(len(sizes)):
            assert abs(begun[which] - found[which] * first / total) <= len(sizes)


def test_epochs_of_a_mixture_never_share_an_inner_epoch():
    mixed = MixedClips([Numbers(3)], num_clips=7)
    inner = [{mixed.locate(ClipKey(epoch, n))[1].epoch for n in range(7)} for epoch in range(4)]
    assert inner == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}]


def test_bad_mixtures():
    with pytest.raises(
        TrainingError, match=r"one weight for each.*1 datasets and weights \[1, 2\]"
    ):
        MixedClips([Numbers(3)], [1, 2])
    with pytest.raises(TrainingError, match="none negative"):
        MixedClips([Numbers(3), Numbers(2)], [1, -1])
    with pytest.raises(TrainingError, match="Numbers has a share, but no clips"):
        MixedClips([Numbers(3), Numbers(0)], [1, 1])
    with pytest.raises(TrainingError, match="got 0 datasets"):
        MixedClips([])
    with pytest.raises(IndexError, match="clip 3 of 3"):
        MixedClips([Numbers(3)])[3]
