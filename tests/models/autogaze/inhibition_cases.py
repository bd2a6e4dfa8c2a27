"""The kernels of inhibition of return under Triton's interpreter: they weigh patches as PyTorch does.

Run by `tests/test_triton.py` with TRITON_INTERPRET=1.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.inhibition import (
    InhibitionOfReturn,
    TritonInhibition,
    differing,
    triton_failure,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("scales", "dtype"), [((32, 48), torch.float32), ((16, 32, 64), torch.float16)]
)
def test_pixels_are_pytorchs(scales, dtype):
    """Also where squares do not nest, and of frames among those of longer clips."""
    pyramid = PatchPyramid(scales, 16)
    frames = torch.randn(2, 2, 3, pyramid.side, pyramid.side).to(dtype)[:, 1:]
    expected, found = (
        kind(pyramid, 1.0).pixels(frames) for kind in (InhibitionOfReturn, TritonInhibition)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 3), k=st.integers(1, 7))
def test_what_is_remembered_is_pytorchs(seed, rows, k):
    """Padding with any ids, patches over others, and pixels among those of more frames."""
    generator, pyramid = torch.Generator().manual_seed(seed), PatchPyramid((32, 64), 16)
    both = [kind(pyramid, 0.5) for kind in (InhibitionOfReturn, TritonInhibition)]
    frames = torch.randn(rows, 3, 3, 64, 64, generator=generator)
    frames[:, 2] = frames[:, 1]
    pixels = both[0].pixels(frames)
    for t in range(3):
        ids = torch.rand(rows, 20, generator=generator).argsort(1)[:, :k]
        kept = torch.rand(rows, k, generator=generator) < 0.7
        ids = torch.where(kept, ids, -99)
        one, other = (each.log_weights(pixels[:, t]) for each in both)
        torch.testing.assert_close(one, other)
        if t:  # one frame more
            assert both[0].visible.equal(both[1].visible)
            seen = both[0].visible
            assert both[0].then[:, :-1][seen].equal(both[1].then[:, :-1][seen])
        for each in both:
            for _ in range(t):  # the same is remembered again
                each.update(pixels[:, t], ids, kept)
            each.update(pixels[:, t], ids, kept)


def test_it_is_found_to_be_equal(monkeypatch):
    pyramid = PatchPyramid((32, 64), 16)
    triton_failure.cache_clear()
    assert triton_failure(pyramid, CPU) == ""
    monkeypatch.setattr(TritonInhibition, "update", lambda self, now, ids, kept: self.memory(now))
    assert "weighs" in differing(pyramid, CPU)
    triton_failure.cache_clear()
