"""The checks of annotations that run in all tests."""

import dataclasses

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tests.typechecker import typed


@typed
def gather(
    values: Float[Tensor, "n c"], places: Int[Tensor, " k"], scale: float = 1
) -> Float[Tensor, "k c"]:
    return values[places] * scale if scale else values


@typed
def table(rows: int) -> Float[np.ndarray, "{rows} 3"]:
    return np.zeros((2, 3), np.float32)


@typed
@dataclasses.dataclass
class Pair:
    first: int
    names: tuple[str, ...] = ()

    @typed
    def other(self, like: "Pair") -> "Pair":
        return like


VALUES, PLACES = torch.zeros(3, 4), torch.tensor([0, 2])


@typed
def any_length(
    square: Float[Tensor, "n n"], row: Float[Tensor, "_ 3"] | None = None
) -> Float[Tensor, "*many n"]:
    return square


@typed
def same_leading(
    one: Float[Tensor, "*many 2"], other: Float[Tensor, "3 ... k"], gain: int | float | None = None
) -> Float[Tensor, "*many k"] | None:
    return torch.zeros(*one.shape[:-1], other.shape[-1]) if gain is None else None


ONE, OTHER = torch.zeros(4, 5, 2), torch.zeros(3, 7, 6)


def test_axes_of_any_number_pass():
    for _ in range(2):  # once as jaxtyping checks it, once as it is checked from then on
        assert same_leading(ONE, OTHER).shape == (4, 5, 6)
        assert same_leading(ONE[0, 0], OTHER[:, 0], None).shape == (6,)
        assert same_leading(ONE, torch.zeros(3, 1, 1, 1, 9), gain=2) is None
        assert same_leading(ONE, OTHER, 0.5) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: same_leading(torch.zeros(4, 5, 3), OTHER),
        lambda: same_leading(torch.tensor(0.0), OTHER),
        lambda: same_leading(ONE, torch.zeros(4, 7, 6)),
        lambda: same_leading(ONE, torch.zeros(3)),
        lambda: same_leading(ONE.int(), OTHER),
        lambda: same_leading(ONE, OTHER, gain="2"),
        lambda: same_leading(ONE, OTHER, [2]),
        lambda: of_leading(ONE, ONE[:3]),
        lambda: of_leading(ONE, ONE[0]),
    ],
)
def test_axes_of_any_number_are_refused(call):
    for _ in range(2):
        assert same_leading(ONE, OTHER) is not None
        assert of_leading(ONE, ONE) is ONE
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


@typed
def of_leading(one: Float[Tensor, "*many 2"], other: Float[Tensor, "*many _"] | None) -> Tensor:
    return one


def test_what_is_annotated_passes():
    for size in (2, 3):
        for _ in range(2):  # once as jaxtyping checks it, once as it is checked from then on
            assert any_length(torch.zeros(size, size), torch.zeros(1, 3)).shape == (size, size)
    assert gather(VALUES, PLACES, scale=2).shape == (2, 4)
    assert table(2).shape == (2, 3)
    assert Pair(1, ("a",)).other(Pair(2)).first == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: gather(VALUES[0], PLACES),
        lambda: gather(VALUES, places=PLACES.float()),
        lambda: gather(VALUES, PLACES, scale="2"),
        lambda: gather(VALUES, PLACES, 0),  # a result of other rows than there are places
        lambda: any_length(torch.zeros(2, 3)),
        lambda: any_length(torch.zeros(2, 2).int()),
        lambda: any_length(torch.zeros(2, 2, 2)),
        lambda: any_length(torch.zeros(2, 2), torch.zeros(1, 2)),
        lambda: any_length(np.zeros((2, 2), np.float32)),
        lambda: table(3),
        lambda: Pair(1.5),
        lambda: Pair(1, (2,)),
        lambda: Pair(1).other(1),
    ],
)
def test_what_is_not_is_refused(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_package_is_checked():
    from autogaze.geometry import PatchPyramid

    with pytest.raises(jaxtyping.TypeCheckError, match="scales"):
        PatchPyramid(scales=[3.5])
