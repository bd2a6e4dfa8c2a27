"""Resizing axis by axis: PyTorch's own bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from autogaze.vision_encoders.positions import ResizedByAxes, resized_by_axes

sides = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), sides, sides),
    size=st.tuples(sides, sides),
    last=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_pytorchs_bit_for_bit(shape, size, last, double, seed):
    pictures = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    pictures = pictures.double() if double else pictures
    if last:
        pictures = pictures.to(memory_format=torch.channels_last)
    wanted = F.interpolate(pictures, size=size, mode="bicubic", align_corners=False)
    found = resized_by_axes(pictures, size)
    assert found.equal(wanted)
    assert found.dtype == wanted.dtype
    with ResizedByAxes():
        assert F.interpolate(pictures, size, mode="bicubic").equal(wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_at_the_end(dtype):
    pictures = torch.randn(1, 3, 9, 7).to(dtype)
    wanted = F.interpolate(pictures.float(), (5, 12), mode="bicubic").to(dtype)
    assert resized_by_axes(pictures, (5, 12)).equal(wanted)
    with ResizedByAxes():  # a CPU keeps to its own
        found = F.interpolate(pictures, (5, 12), mode="bicubic")
    assert found.equal(F.interpolate(pictures, (5, 12), mode="bicubic"))


@pytest.mark.parametrize(
    "options",
    [
        {"size": (4, 6), "mode": "bilinear"},
        {"size": (4, 6), "mode": "bicubic", "antialias": True},
        {"size": (4, 6), "mode": "bicubic", "align_corners": True},
        {"size": 5, "mode": "bicubic"},
        {"scale_factor": 1.3, "mode": "bicubic"},
        {"size": (4, 6)},
    ],
)
def test_other_resizing_is_left_as_it_is(options):
    pictures = torch.randn(1, 3, 8, 8)
    with ResizedByAxes():
        found = F.interpolate(pictures, **options)
    assert found.equal(F.interpolate(pictures, **options))
