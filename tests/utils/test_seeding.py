"""Generators follow from what they are for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autogaze.errors import AutoGazeError
from autogaze.utils.seeding import (
    check_seed,
    generator_of,
    integer,
    numpy_seed,
    seed_weights,
    seeded,
    uniform,
)


def test_seeds():
    assert uniform(seeded("a", 1), 0, 1) == uniform(seeded("a", 1), 0, 1)
    assert uniform(seeded("a", 1), 0, 1) != uniform(seeded("a", 2), 0, 1)
    numbers = [integer(seeded("b", n), 3) for n in range(60)]
    assert set(numbers) == {0, 1, 2}


def test_seeds_that_somebody_gives():
    for seed in (0, 7, -1, -(2**63), 2**64 - 1):
        assert (
            generator_of(seed).initial_seed() == torch.Generator().manual_seed(seed).initial_seed()
        )
    for seed in (2**64, -(2**63) - 1, 10**100):
        for take in (generator_of, check_seed, seed_weights):
            with pytest.raises(AutoGazeError, match="seed"):
                take(seed)


@given(st.integers(-(2**70), 2**70))
def test_numpy_takes_any_seed(seed: int):
    np.random.default_rng(numpy_seed(seed))
    assert seed < 0 or numpy_seed(seed) == seed


def test_initial_weights():
    def drawn(seed: int) -> torch.Tensor:
        seed_weights(seed)
        return nn.Linear(3, 3).weight

    assert drawn(1).equal(drawn(1))
    assert not drawn(1).equal(drawn(2))
