"""Gazed encoding's kernels in Triton, interpreted on a CPU: run by tests/test_triton.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import PatchPyramid
from autogaze.vision_encoders import attention, patches
from autogaze.vision_encoders.key_ranges import triton_attention, triton_failure
from autogaze.vision_encoders.layout import ATTENTION_TYPES, TokenLayout
from autogaze.vision_encoders.patches import cut_in_triton, gazed_patches

CPU = torch.device("cpu")
PYRAMIDS = (
    PatchPyramid((32, 64), 16),
    PatchPyramid((8, 12, 28), 4),
    PatchPyramid((20, 30), 7, crop=True),
    PatchPyramid((24,), 8),
)


@settings(max_examples=8, deadline=None)
@given(
    pyramid=st.sampled_from(PYRAMIDS),
    other=st.sampled_from([0, 0, 10, -3]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
def test_patches_are_those_of_resized_frames(pyramid, other, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    side = pyramid.side + other  # of another side, they are resized to the finest scale, too
    frames = torch.rand(3, 3, side, side + other, generator=generator).to(dtype)
    frames = frames if seed % 2 else frames.transpose(-1, -2).contiguous().transpose(-1, -2)
    ids = torch.randint(pyramid.num_patches, (6,), generator=generator)
    frame = torch.randint(3, (6,), generator=generator)
    found = cut_in_triton(frames, ids, frame, pyramid)
    wanted = gazed_patches(frames.double(), ids, frame, pyramid)
    assert (found.dtype, found.shape) == (dtype, wanted.shape)
    error = max(torch.finfo(dtype).eps, 1e-5 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=error)
    if not other:  # no pixel of the finest scale is computed
        finest = ids >= pyramid.offsets[-1]
        assert found[finest].equal(wanted[finest].to(dtype))


def test_half_precision_is_rounded_once():  # not bfloat16, which the interpreter cuts off
    pyramid = PatchPyramid((8, 12, 28), 4)
    frames = torch.rand(1, 3, 28, 28).half()
    ids = torch.arange(13)
    found = cut_in_triton(frames, ids, torch.zeros_like(ids), pyramid)
    wanted = gazed_patches(frames.float(), ids, torch.zeros_like(ids), pyramid)
    assert (found.float() - wanted).abs().max() <= 2**-11  # half a unit of values from 1 to 2


def test_no_patches_are_cut_of_nothing():
    ids = torch.zeros(0, dtype=torch.long)
    assert cut_in_triton(torch.rand(1, 3, 24, 24), ids, ids, PYRAMIDS[3]).shape == (0, 3, 8, 8)


RAGGED = ((30, 0, 41, 3), (70, 1, 9, 0))


@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
@pytest.mark.parametrize("width", [16, 24, 72])
def test_attention_is_that_of_groups(attn_type, width):
    for lengths, prefix in (
        (RAGGED, 0),
        (RAGGED, 1),
        (((5, 5), (5, 5), (0, 9)), 0),
        (((200,),), 0),
    ):
        layout = TokenLayout(lengths, attn_type, CPU, prefix)
        tokens = torch.randn(3, layout.num_tokens, 2, width).half()
        query, key, value = tokens.transpose(1, 2)
        found = triton_attention(query, key, value, layout, scale=0.2)
        assert (found.dtype, found.shape) == (torch.float16, (layout.num_tokens, 2, width))
        wide = (x.float() for x in (query, key, value))
        wanted = attention.grouped_attention(*wide, layout, scale=0.2)
        torch.testing.assert_close(found.float(), wanted, rtol=0, atol=5e-3)


def test_large_logits_and_one_key_are_no_trouble():
    layout = TokenLayout(((1, 1, 70),), "causal", CPU)
    query, key, value = 60 * torch.randn(3, 1, 72, 16).half()
    found = triton_attention(query, key, value, layout)
    wanted = attention.grouped_attention(query.float(), key.float(), value.float(), layout)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=0.5)
    assert found[0].equal(value[:, 0])


def test_heads_that_lie_askew_are_copied():
    layout = TokenLayout(((5, 6),), "block_causal", CPU)
    askew = torch.randn(3, 16, 11, 2).half().permute(0, 3, 2, 1)  # channels 22 apart
    found = triton_attention(*askew, layout)
    wanted = attention.grouped_attention(*askew.float(), layout)
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=5e-3)


def test_what_is_tried_out_first_is_right():
    assert not triton_failure(CPU, torch.float16, 72)
    for dtype in (torch.float32, torch.float16, torch.float64):
        assert not patches.triton_failure(CPU, dtype)
