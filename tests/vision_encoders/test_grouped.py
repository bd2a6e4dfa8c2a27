"""Grouped attention is masked attention, for every layout."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autogaze.vision_encoders.attention import grouped_attention
from autogaze.vision_encoders.layout import ATTENTION_TYPES, TokenLayout
from tests.vision_encoders.families import assert_close
from tests.vision_encoders.layouts import CPU, dense_attention, dense_mask, layouts, random_qkv

RAGGED = ((3, 0, 5), (3, 0, 5), (0, 0, 0), (4, 4, 0), (8, 0, 0))


@settings(max_examples=150, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 99), scale=st.sampled_from([None, 0.7]))
@example(layout=TokenLayout(RAGGED, "block_causal", CPU), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "frame_independent", CPU), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "causal", CPU, num_prefix=2), seed=0, scale=None)
def test_it_is_masked_attention(layout, seed, scale):
    query, key, value = random_qkv(layout.num_tokens, seed=seed)
    found = grouped_attention(query, key, value, layout, scale=scale)
    expected = dense_attention(query, key, value, dense_mask(layout), scale)
    assert found.shape == (layout.num_tokens, 2, 8)
    assert_close(found, expected, 1e-5)


def test_gradients_are_those_of_masked_attention():
    for attn_type in ATTENTION_TYPES:
        layout = TokenLayout(RAGGED, attn_type, CPU, num_prefix=1)
        inputs = [x.requires_grad_() for x in random_qkv(layout.num_tokens)]
        weights = torch.randn(layout.num_tokens, 2, 8)
        found = torch.autograd.grad((grouped_attention(*inputs, layout) * weights).sum(), inputs)
        dense = dense_attention(*inputs, dense_mask(layout))
        expected = torch.autograd.grad((dense * weights).sum(), inputs)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs, 1e-5)


def test_dropout_drops():
    layout = TokenLayout(((6, 6),), "bidirectional", CPU)
    query, key, _ = random_qkv(12)
    torch.manual_seed(0)
    kept = grouped_attention(query, key, torch.ones(2, 12, 8), layout, dropout=0.5)
    # Rows of softmax sum to one unless something was dropped.
    assert (kept - 1).abs().amax() > 0.1
