"""Mixtures of datasets keep their shares."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from autogaze.datasets.clip import ClipKey
from autogaze.datasets.mixture import MixedClips
from autogaze.errors import TrainingError


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
    with pytest.raises(TrainingError, match=r"\b1 datasets.*weights \[1, 2\]"):
        MixedClips([Numbers(3)], [1, 2])
    with pytest.raises(TrainingError, match=r"\b2 datasets.*weights \[1, -1\]"):
        MixedClips([Numbers(3), Numbers(2)], [1, -1])
    with pytest.raises(TrainingError, match=r"\bNumbers\b.*no clips"):
        MixedClips([Numbers(3), Numbers(0)], [1, 1])
    with pytest.raises(TrainingError, match="got 0 datasets"):
        MixedClips([])
    with pytest.raises(IndexError, match="clip 3 of 3"):
        MixedClips([Numbers(3)])[3]
