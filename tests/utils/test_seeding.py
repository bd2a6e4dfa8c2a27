"""Generators follow from what they are for."""

from autogaze.utils.seeding import integer, seeded, uniform


def test_seeds():
    assert uniform(seeded("a", 1), 0, 1) == uniform(seeded("a", 1), 0, 1)
    assert uniform(seeded("a", 1), 0, 1) != uniform(seeded("a", 2), 0, 1)
    numbers = [integer(seeded("b", n), 3) for n in range(60)]
    assert set(numbers) == {0, 1, 2}
