"""Generators follow from what they are for."""

import torch
from torch import nn

from autogaze.utils.seeding import integer, seed_weights, seeded, uniform


def test_seeds():
    assert uniform(seeded("a", 1), 0, 1) == uniform(seeded("a", 1), 0, 1)
    assert uniform(seeded("a", 1), 0, 1) != uniform(seeded("a", 2), 0, 1)
    numbers = [integer(seeded("b", n), 3) for n in range(60)]
    assert set(numbers) == {0, 1, 2}


def test_initial_weights():
    def drawn(seed: int) -> torch.Tensor:
        seed_weights(seed)
        return nn.Linear(3, 3).weight

    assert drawn(1).equal(drawn(1))
    assert not drawn(1).equal(drawn(2))
