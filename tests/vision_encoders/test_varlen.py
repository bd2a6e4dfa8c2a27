"""Kernels for segments of any lengths: what they are handed, and when they are taken."""

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from autogaze.errors import EncoderError
from autogaze.vision_encoders import attention, gazed, varlen
from autogaze.vision_encoders.attention import (
    packed_attention,
    recorded_backends,
    suitable_backend,
    why_not,
)
from autogaze.vision_encoders.layout import ATTENTION_TYPES, TokenLayout
from autogaze.vision_encoders.packed import GazedSettings
from autogaze.vision_encoders.varlen import (
    flash_kernel,
    not_able,
    not_installed,
    segments,
    torch_kernel,
    varlen_attention,
)
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze
from tests.vision_encoders.layouts import CPU, dense_attention, dense_mask, layouts, random_qkv

RAGGED = ((3, 0, 5), (3, 0, 5), (0, 0, 0), (4, 4, 0), (8, 0, 0))
GPU = torch.device("cuda", 0)


def plain(q, k, v, q_edges, k_edges, longest_q, longest_k, dropout_p, softmax_scale, causal):
    """What `flash_attn_varlen_func` computes, segment by segment."""
    assert q_edges.dtype == k_edges.dtype == torch.int32
    q_edges, k_edges = q_edges.tolist(), k_edges.tolist()
    assert (q_edges[0], q_edges[-1], k_edges[0], k_edges[-1]) == (0, len(q), 0, len(k))
    out = torch.empty_like(q)
    spans = list(zip(q_edges, q_edges[1:], k_edges, k_edges[1:], strict=False))
    assert longest_q == max((b - a for a, b, _, _ in spans), default=0)
    assert longest_k == max((d - c for _, _, c, d in spans), default=0)
    parts = []
    for a, b, c, d in spans:
        assert 0 < b - a <= d - c
        qs, ks, vs = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
        parts.append(
            F.scaled_dot_product_attention(
                qs, ks, vs, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
            ).transpose(0, 1)
        )
    return torch.cat(parts) if parts else out


@pytest.fixture
def _flash(monkeypatch):
    """A stand-in for FlashAttention, and for what it needs."""
    module = ModuleType("flash_attn")

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
    ):
        edges = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return plain(q, k, v, *edges, dropout_p, softmax_scale, causal)

    module.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.mark.usefixtures("_flash")
@settings(max_examples=100, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 99), scale=st.sampled_from([None, 0.7]))
@example(layout=TokenLayout(RAGGED, "block_causal", CPU), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "frame_independent", CPU, 1), seed=0, scale=None)
@example(layout=TokenLayout(RAGGED, "causal", CPU, num_prefix=2), seed=0, scale=None)
def test_segments_are_masked_attention(layout, seed, scale):
    query, key, value = random_qkv(layout.num_tokens, seed=seed)
    found = varlen_attention(query, key, value, layout, flash_kernel, scale=scale)
    expected = dense_attention(query, key, value, dense_mask(layout), scale)
    assert_close(found, expected, 1e-5)


@pytest.mark.usefixtures("_flash")
def test_their_gradients_are_those_of_masked_attention():
    for attn_type in ATTENTION_TYPES:
        layout = TokenLayout(RAGGED, attn_type, CPU, num_prefix=1)
        with torch.inference_mode():
            segments(layout)  # made there, they serve gradients too
        inputs = [x.requires_grad_() for x in random_qkv(layout.num_tokens)]
        weights = torch.randn(layout.num_tokens, 2, 8)
        found = varlen_attention(*inputs, layout, flash_kernel)
        gradients = torch.autograd.grad((found * weights).sum(), inputs)
        dense = dense_attention(*inputs, dense_mask(layout))
        expected = torch.autograd.grad((dense * weights).sum(), inputs)
        for mine, theirs in zip(gradients, expected, strict=True):
            assert_close(mine, theirs, 1e-5)


def test_prefixes_are_laid_one_after_another_and_frames_are_not_copied():
    parts = segments(TokenLayout(((2, 0, 1), (0, 3, 0)), "block_causal", CPU))
    assert parts.query_edges.tolist() == [0, 2, 3, 6]
    assert parts.key_edges.tolist() == [0, 2, 5, 8]
    assert parts.keys.tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert (parts.longest_query, parts.longest_key, parts.num_keys) == (3, 3, 8)
    for attn_type in ("frame_independent", "causal", "bidirectional"):
        assert segments(TokenLayout(RAGGED, attn_type, CPU)).keys is None
    assert segments(TokenLayout(((4,), (2,)), "block_causal", CPU)).keys is None


@pytest.mark.parametrize("attn_type", ATTENTION_TYPES)
def test_pytorchs_kernel_takes_what_it_is_given(attn_type):
    """Its shapes are known without a GPU, and so are its arguments."""
    if not_installed("varlen"):
        pytest.skip(not_installed("varlen"))
    layout = TokenLayout(RAGGED, attn_type, torch.device("meta"), num_prefix=1)
    query = torch.empty(2, layout.num_tokens, 8, device="meta", dtype=torch.bfloat16)
    found = varlen_attention(query, query, query, layout, torch_kernel, scale=0.3)
    assert found.shape == (layout.num_tokens, 2, 8)
    assert found.dtype == torch.bfloat16


@pytest.mark.usefixtures("_flash")
def test_a_gazed_model_computes_the_same_by_them(monkeypatch):
    monkeypatch.setattr(varlen, "not_installed", lambda backend: None)
    monkeypatch.setattr(attention, "not_installed", lambda backend: None)
    monkeypatch.setattr(attention, "not_able", lambda *_: None)
    for name in ("siglip", "dinov3"):
        family = FAMILIES[name]
        pyramid = family.pyramid(32, 64)
        inputs = random_frames(2, 3), random_gaze(pyramid, 2, 3)
        for attn_type in ATTENTION_TYPES:
            options = {"attn_type": attn_type}
            with torch.no_grad():
                expected = gazed(family.model(), **options)(*inputs)
                with recorded_backends() as recorded:
                    found = gazed(family.model(), backend="flash", **options)(*inputs)
            assert recorded == {"flash"}
            assert_close(found.last_hidden_state, expected.last_hidden_state)
            assert_close(found.pooler_output, expected.pooler_output)


def able(**changes):
    """Why the kernel cannot compute this on a GPU that can do all."""
    setting = {"device": GPU, "dtype": torch.bfloat16, "head_size": 72, "dropout": 0.0, **changes}
    return not_able(setting.pop("backend", "varlen"), **setting)


def test_limits_of_the_kernels_are_told(monkeypatch):
    monkeypatch.setattr(varlen, "capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert able() is None
    assert able(dtype=torch.float16, backend="flash", dropout=0.1) is None
    for changes, named in (
        ({"device": CPU}, "cpu"),
        ({"dtype": torch.float32}, "float32"),
        ({"head_size": 20}, "20"),
        ({"head_size": 264}, "264"),
        ({"dropout": 0.1}, "0.1"),
    ):
        assert named in able(**changes)
    monkeypatch.setattr(varlen, "capability", lambda device: (7, 5))
    assert "7" in able(backend="flash")
    monkeypatch.setattr(varlen, "capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert "FlashAttention" in able()
    assert able(backend="flash") is None


def test_a_backend_that_cannot_be_had_says_why():
    layout = TokenLayout(RAGGED, "block_causal", CPU)
    query, key, value = random_qkv(layout.num_tokens)
    with pytest.raises(EncoderError, match=r"'varlen'.*cpu"):
        packed_attention(query, key, value, layout, backend="varlen")
    with pytest.raises(EncoderError, match=r"'flex'.*0\.1"):
        packed_attention(query, key, value, layout, backend="flex", dropout=0.1)
    family = FAMILIES["siglip"]
    with pytest.raises(EncoderError, match=r"'varlen'.*cpu"):
        gazed(family.model(), backend="varlen")(
            random_frames(1, 2), random_gaze(family.pyramid(32, 64), 1, 2)
        )


def test_a_backend_that_is_not_installed_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(varlen, "_has", lambda module: False)
    for backend, named in (("flash", "flash_attn"), ("varlen", "torch.nn.attention.varlen")):
        with pytest.raises(EncoderError, match=named):
            GazedSettings(backend=backend)
    monkeypatch.setattr(varlen, "_has", lambda module: True)
    monkeypatch.setattr(varlen, "_varlen_options", lambda: {"query", "is_causal"})
    with pytest.raises(EncoderError, match="no scale"):
        GazedSettings(backend="varlen")
    with pytest.raises(EncoderError, match=r"'xformers'.*grouped, varlen, flash, flex"):
        GazedSettings(backend="xformers")


def test_auto_suits_the_device_and_the_layout(monkeypatch):
    monkeypatch.setattr(varlen, "capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(attention, "triton_failure", lambda *_: "left out here")
    installed = {"varlen"}
    monkeypatch.setattr(attention, "not_installed", lambda name: None if name in installed else "-")
    ragged, even = ((3, 2, 4, 5, 6),), ((3, 3), (3, 3))
    long = (tuple(range(1, 60)),)
    with FakeTensorMode():
        half = torch.empty(2, 9, 64, device="cuda", dtype=torch.bfloat16)
        single = torch.empty(2, 9, 64, device="cuda")
        host = torch.empty(2, 9, 64, dtype=torch.bfloat16)

    def auto(query, lengths, attn_type, dropout=0.0):
        return suitable_backend(TokenLayout(lengths, attn_type, CPU), query, dropout)

    assert auto(half, ragged, "frame_independent") == "varlen"
    assert auto(half, ragged, "block_causal") == "varlen"
    assert auto(half, even, "frame_independent") == "grouped"  # one call, without copies
    assert auto(half, even, "block_causal") == "varlen"
    assert auto(half, long, "block_causal") == "flex"  # prefixes would be copied 20 times
    assert auto(half, ragged, "frame_independent", dropout=0.1) == "grouped"
    assert auto(single, ragged, "frame_independent") == "grouped"  # compiles nothing
    assert auto(single, long, "frame_independent") == "flex"
    assert auto(single, even, "block_causal") == "grouped"
    assert auto(host, ragged, "frame_independent") == "grouped"
    installed.clear()
    assert auto(half, long, "frame_independent") == "flex"
    installed.add("flash")
    assert auto(half, ragged, "frame_independent", dropout=0.1) == "flash"
    assert why_not("flash", half, 0.1) is None


def test_what_computed_is_recorded():
    layout = TokenLayout(RAGGED, "block_causal", CPU)
    query, key, value = random_qkv(layout.num_tokens)
    with recorded_backends() as outer:
        packed_attention(query, key, value, layout)
        with recorded_backends() as inner:
            pass
    packed_attention(query, key, value, layout)
    assert (outer, inner) == ({"grouped"}, set())
