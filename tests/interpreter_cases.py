"""The quicker interpreter: what it asks of every kernel. Run by tests/test_triton.py."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def _doubled(number: tl.tensor) -> tl.tensor:
    return number + number


@triton.jit
def double(numbers: tl.tensor, COUNT: tl.constexpr) -> None:
    at = tl.arange(0, COUNT)
    tl.store(numbers + at, _doubled(tl.load(numbers + at)))


@pytest.mark.parametrize("number", [2**30 - 1, -(2**30)])
def test_integers_that_just_fit_are_right(number: int) -> None:
    numbers = torch.tensor([0, number], dtype=torch.int32)
    double[(1,)](numbers, 2)
    assert numbers.tolist() == [0, 2 * number]


@pytest.mark.parametrize("number", [2**30, -(2**30) - 1])
def test_integers_that_overflow_are_errors(number: int) -> None:
    with pytest.raises(InterpreterError, match="overflows"):
        double[(1,)](torch.tensor([0, number], dtype=torch.int32), 2)
