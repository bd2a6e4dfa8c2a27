"""The kernels of a block under Triton's interpreter: they take and keep the patches that PyTorch does.

Run by `tests/test_triton.py` with TRITON_INTERPRET=1.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.models.autogaze.block_taker import (
    BlockRows,
    limit_in_pytorch,
    limit_in_triton,
    random_rows,
    take_in_pytorch,
    take_in_triton,
    triton_failure,
)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 3),
    heads=st.integers(1, 10),
    patches=st.sampled_from([1, 2, 31, 32, 265]),
    values=st.sampled_from([2, 1000]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    extra=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_patches_are_pytorchs(rows, heads, patches, values, share, extra, seed):
    """Whatever is taken, however many are equally likely, and wherever the logits lie."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, heads, patches + extra)
    logits = torch.randint(-values, values, shape, generator=generator).float()[..., :patches]
    taken = torch.rand(rows, patches, generator=generator) < share
    found, wanted = (taken.clone(), torch.full((rows, heads), -1)), (taken, torch.empty(0).long())
    take_in_triton(logits, *found)
    take_in_pytorch(logits, *wanted)
    assert found[1].equal(wanted[1])
    assert found[0].equal(wanted[0])


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 5),
    heads=st.sampled_from([1, 2, 4, 10]),
    own=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_what_is_kept_is_pytorchs(rows, heads, own, seed):
    """Rows in any state, several blocks after another, also with losses that are no numbers."""
    generator = torch.Generator().manual_seed(seed)
    ours = random_rows(rows, heads, generator)
    theirs = BlockRows(**{name: part.clone() for name, part in vars(ours).items()})
    thresholds = torch.rand(rows, heads if own else 1, generator=generator) / 4
    for _ in range(3):
        losses = torch.rand(rows, heads, generator=generator)
        losses[0, -1] = float("nan")
        limit_in_triton(ours, losses, thresholds)
        limit_in_pytorch(theirs, losses, thresholds)
        for name, part in vars(theirs).items():
            assert torch.allclose(getattr(ours, name), part, equal_nan=True), name


def test_it_is_found_to_be_equal():
    triton_failure.cache_clear()
    assert triton_failure(torch.device("cpu")) == ""
