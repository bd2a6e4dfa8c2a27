"""The kernel that takes a block's patches under Triton's interpreter: the patches that PyTorch takes.

Run by `tests/test_triton.py` with TRITON_INTERPRET=1.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.models.autogaze.block_taker import take_in_pytorch, take_in_triton, triton_failure


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


def test_it_is_found_to_be_equal():
    triton_failure.cache_clear()
    assert triton_failure(torch.device("cpu")) == ""
