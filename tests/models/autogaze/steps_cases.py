"""The kernels of a frame's steps under Triton's interpreter: they do what PyTorch's operators do.

Run by `tests/test_triton.py` with TRITON_INTERPRET=1.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.models.autogaze.frame_steps import FrameSteps
from autogaze.models.autogaze.triton_steps import (
    TritonSteps,
    copied,
    differing,
    random_rows,
    triton_failure,
    unequal,
)
from tests.models.autogaze.tiny import tiny_model


@settings(deadline=None, max_examples=20)
@given(
    num_rows=st.integers(2, 4),
    K=st.sampled_from([1, 3, 4]),
    sequential=st.booleans(),
    values=st.sampled_from([2, 1000]),
    given_logits=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_blocks_are_pytorchs(num_rows, K, sequential, values, given_logits, seed):
    """Rows in any state, some patches equally likely, losses that are no numbers, fewer patches than slots."""
    fused = tiny_model(K=K).gazing_model.gaze_decoder.fused()
    generator = torch.Generator().manual_seed(seed)
    start = random_rows(fused, num_rows, 5, generator)
    pairs = [copied(start), copied(start)]
    kinds = (FrameSteps, TritonSteps)
    both = [kind(fused, 5, sequential=sequential) for kind in kinds]
    vision = torch.randn(num_rows - 1, 5, 48, generator=generator)
    for steps, rows in zip(both, pairs, strict=True):
        steps.begin(rows, vision, 77)
        if values == 2:
            rows.taken[0, 2:] = True
    assert unequal(*pairs) == ""
    for number in range(3):
        logits = torch.randint(-values, values, (num_rows, K, 21), generator=generator).float()
        losses = torch.rand(num_rows, K, generator=generator) - 0.5
        losses[0, -1] = float("nan")
        for steps, rows in zip(both, pairs, strict=True):
            taken = logits[..., :-1] if given_logits else None
            steps.block(rows, taken, losses, 77, first=number == 0, weighted=number == 1)
        assert unequal(*pairs) == ""


def test_logits_that_are_no_numbers_give_patches_that_there_are():
    fused = tiny_model().gazing_model.gaze_decoder.fused()
    rows = random_rows(fused, 2, 5, torch.Generator().manual_seed(0))
    logits = torch.full((2, 4, 20), float("nan"))
    TritonSteps(fused, 5, sequential=True).block(rows, logits, logits[..., 0], 77, first=True)
    assert ((rows.ids >= 0) & (rows.ids < 20)).all()


def test_they_are_found_to_be_equal(monkeypatch):
    fused = tiny_model(K=3).to(torch.float16).gazing_model.gaze_decoder.fused()
    assert triton_failure(fused) == ""
    monkeypatch.setattr(TritonSteps, "block", lambda self, rows, *_, **__: rows.left.add_(1))
    assert differing(fused).startswith("block: ")
    monkeypatch.setattr(TritonSteps, "begin", lambda self, rows, *_: rows.left.add_(1))
    assert differing(fused).startswith("begin: ")
