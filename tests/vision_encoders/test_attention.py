"""Both backends compute masked attention; FlexAttention skips the right blocks."""

import shutil

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from autogaze.vision_encoders import key_ranges
from autogaze.vision_encoders.attention import grouped_attention, why_not
from autogaze.vision_encoders.key_ranges import flex_attention, visible_blocks, visible_bounds
from autogaze.vision_encoders.layout import ATTENTION_TYPES, KEPT_LAYOUTS, TokenLayout
from autogaze.vision_encoders.varlen import segments
from tests.vision_encoders.families import assert_close
from tests.vision_encoders.layouts import CPU, dense_attention, dense_mask, layouts, random_qkv

RAGGED = ((3, 0, 5), (3, 0, 5), (0, 0, 0), (4, 4, 0), (8, 0, 0))


@settings(max_examples=150, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 99), scale=st.sampled_from([None, 0.7]))
@example(layout=TokenLayout(RAGGED, "block_causal", CPU), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "frame_independent", CPU), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "causal", CPU, num_prefix=2), seed=0, scale=None)
def test_grouped_attention_is_masked_attention(layout, seed, scale):
    query, key, value = random_qkv(layout.num_tokens, seed=seed)
    found = grouped_attention(query, key, value, layout, scale=scale)
    expected = dense_attention(query, key, value, dense_mask(layout), scale)
    assert found.shape == (layout.num_tokens, 2, 8)
    assert_close(found, expected, 1e-5)


def test_gradients_of_grouped_attention_are_those_of_masked_attention():
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


# Without the compiler it is slow and says so, which is no news to these tests.
uncompiled = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@settings(deadline=None)
@given(layout=layouts())
def test_bounds_are_the_mask(layout):
    first, end = visible_bounds(layout).unbind(1)
    keys = torch.arange(layout.num_tokens)
    found = (keys >= first[:, None]) & (keys < end[:, None])
    assert found.equal(dense_mask(layout))


@settings(max_examples=80, deadline=None)
@given(layout=layouts(), block=st.integers(1, 9))
def test_blocks_are_those_of_the_mask(layout, block):
    """No block is missed, and none is looked at in vain: what a block of tokens sees is gapless."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_ranges, "BLOCK", block)
        partly, wholly = visible_blocks(visible_bounds(layout))
    mask = dense_mask(layout)
    missing = -len(mask) % block
    # Queries behind the end see what the last one sees, keys there are seen by nobody.
    rows = torch.cat([mask, mask[-1:].expand(missing, -1)])
    blocks = F.pad(rows, (0, missing)).unflatten(1, (-1, block)).unflatten(0, (-1, block))
    seen, all_seen = blocks.any(3).any(1), blocks.all(3).all(1)
    assert wholly.equal(all_seen)
    assert partly.equal(seen & ~all_seen)


@settings(max_examples=40, deadline=None)
@given(layout=layouts(), block=st.integers(1, 9))
def test_the_block_mask_lists_these_blocks(layout, block):
    """What the kernel is handed is, read back, what was found; and it is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_ranges, "BLOCK", block)
        partly, wholly = visible_blocks(visible_bounds(layout))
        mask = key_ranges._block_mask(layout)
        assert key_ranges._block_mask(layout) is mask
    assert mask.to_dense()[0, 0].bool().equal(partly | wholly)
    assert mask.kv_num_blocks[0, 0].tolist() == partly.sum(1).tolist()
    assert mask.full_kv_num_blocks[0, 0].tolist() == wholly.sum(1).tolist()


def test_a_layout_keeps_its_mask_as_long_as_it_lives():
    """However many other layouts there are: CUDA graphs read masks and edges at their addresses."""
    made = [TokenLayout(((3, 2),), kind, CPU) for kind in ATTENTION_TYPES * KEPT_LAYOUTS]
    edges = segments(made[0]).query_edges
    masks = [key_ranges._block_mask(layout) for layout in made]
    assert [
        key_ranges._block_mask(layout) is mask for layout, mask in zip(made, masks, strict=True)
    ] == ([True] * len(made))
    assert len(set(map(id, masks))) == len(made)
    assert [segments(layout) is not segments(made[0]) for layout in made[1:]] == [True] * (
        len(made) - 1
    )
    assert segments(made[0]).query_edges is edges


@uncompiled
@settings(max_examples=5, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 99), scale=st.sampled_from([None, 0.7]))
def test_flex_attention_is_masked_attention(layout, seed, scale):
    query, key, value = random_qkv(layout.num_tokens, size=16, seed=seed)
    found = flex_attention(query, key, value, layout, scale=scale, compiled=False)
    expected = dense_attention(query, key, value, dense_mask(layout), scale)
    assert_close(found, expected, 1e-5)


def test_widths_that_an_older_pytorch_does_not_take(monkeypatch):
    """Before PyTorch 2.8 there is a function that says so, and FlexAttention asks it."""
    module = "torch.nn.attention.flex_attention._supported_head_dim"
    monkeypatch.setattr(module, lambda width: width in (8, 16), raising=False)
    wide, narrow = (random_qkv(4, size=size)[0] for size in (16, 12))
    assert why_not("flex", wide, 0.0) is None
    assert "power of two" in (why_not("flex", narrow, 0.0) or "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler to build the kernel with")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_kernel_skips_no_block_that_counts(monkeypatch):
    """More tokens than a block, frames across its edges; one compilation for all types."""
    # It is compiled here, not by processes that import PyTorch first.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    lengths = ((100, 3, 0, 70), (55, 2, 9, 130))
    for attn_type in ATTENTION_TYPES:
        layout = TokenLayout(lengths, attn_type, CPU, num_prefix=1)
        assert layout.num_tokens > 2 * key_ranges.BLOCK
        query, key, value = random_qkv(layout.num_tokens, size=16)
        with torch.no_grad():
            found = flex_attention(query, key, value, layout)
        assert_close(found, dense_attention(query, key, value, dense_mask(layout)), 1e-5)
