"""Batches that are halved once where memory is too small."""

import pytest
import torch

from autogaze.errors import AutoGazeError, EncoderError
from autogaze.utils.batch_size import BatchSize


class Memory:
    """Work on a device that holds a number of items at most."""

    def __init__(self, holds: int) -> None:
        self.holds, self.asked = holds, list[int]()

    def __call__(self, size: int) -> int:
        self.asked.append(size)
        if size > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        return size


@pytest.mark.parametrize(("size", "holds", "asked"), [(8, 8, [8]), (8, 5, [8, 4]), (7, 4, [7, 4])])
def test_half_is_taken_once_where_all_is_too_much(size: int, holds: int, asked: list[int]) -> None:
    memory, batch = Memory(holds), BatchSize("tiles", "take fewer")
    assert batch.run(size, memory) == asked[-1]
    assert memory.asked == asked


def test_half_is_taken_from_then_on() -> None:
    memory, batch = Memory(4), BatchSize("tiles", "take fewer")
    assert [batch.run(size, memory) for size in (8, 8, 3)] == [4, 4, 3]
    assert memory.asked == [8, 4, 4, 3]


@pytest.mark.parametrize(("size", "holds"), [(8, 3), (1, 0), (2, 0)])
def test_no_memory_for_half_is_an_error_that_says_what_to_lower(size: int, holds: int) -> None:
    batch = BatchSize("tiles", "take fewer", EncoderError)
    with pytest.raises(EncoderError, match="take fewer") as raised:
        batch.run(size, Memory(holds))
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_left_alone() -> None:
    def broken(size: int) -> None:
        raise AutoGazeError("broken")

    batch = BatchSize("tiles", "take fewer")
    with pytest.raises(AutoGazeError, match="broken"):
        batch.run(4, broken)
    assert batch.halved is None


def test_the_same_numbers_are_drawn_the_second_time() -> None:
    generator = torch.Generator().manual_seed(2)
    expected = torch.rand(3, generator=generator)

    def draw(size: int) -> torch.Tensor:
        drawn = torch.rand(3, generator=generator)
        if size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return drawn

    generator.manual_seed(2)
    assert BatchSize("tiles", "take fewer").run(4, draw, generator).equal(expected)
