"""Clips come in the order that the seed says, wherever training starts and however it is divided."""

from itertools import chain

import pytest

from autogaze.datasets.clip import ClipKey
from autogaze.training.loader import StepSampler, batch_items

SIZES = {"num_clips": 10, "batch_size": 4, "micro_batch": 3, "seed": 7}


def test_every_epoch_shows_every_clip_once_in_an_order_of_its_own():
    keys = [place.key for step in range(5) for place in batch_items(step, 4, 10, seed=7)]
    first, second = keys[:10], keys[10:]
    for epoch, part in enumerate((first, second)):
        assert sorted(part) == [ClipKey(epoch, number) for number in range(10)]
    assert [key.number for key in first] != [key.number for key in second]
    assert first != sorted(first)


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_slices_of_all_processes_make_the_batch(first, processes):
    samplers = [
        StepSampler(**SIZES, first=first, last=5, process=process, num_processes=processes)
        for process in range(processes)
    ]
    parts = [list(sampler) for sampler in samplers]
    count = samplers[0].micro_batches
    for index, step in enumerate(range(first, 5)):
        rows = [part[index * count : (index + 1) * count] for part in parts]
        together = list(chain.from_iterable(chain.from_iterable(rows)))
        assert together == batch_items(step, 4, 10, seed=7)
        assert all(len(batch) <= 3 for batch in chain.from_iterable(rows))


def test_a_batch_may_be_larger_than_the_dataset():
    keys = [place.key for place in batch_items(0, 25, 10, seed=7)]
    assert len(set(keys)) == 25
