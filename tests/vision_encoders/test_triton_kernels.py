"""Gazed encoding's kernels in Triton, compiled for a GPU that is not here; `test_triton.py` interprets them."""

import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from autogaze.errors import EncoderError
from autogaze.vision_encoders import attention, key_ranges, patches
from autogaze.vision_encoders.attention import (
    packed_attention,
    recorded_backends,
    suitable_backend,
    why_not,
)
from autogaze.vision_encoders.key_ranges import launch_options, triton_failure
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.packed import GazedSettings
from tests.triton_runs import compile_for_gpu

CPU = torch.device("cpu")


@pytest.fixture
def untried():
    for tried in (triton_failure, patches.triton_failure):
        tried.cache_clear()
    yield
    for tried in (triton_failure, patches.triton_failure):
        tried.cache_clear()


@pytest.mark.parametrize("frames", ["fp32", "bf16", "fp64"])
def test_cutting_compiles_for_a_gpu(frames, tmp_path, monkeypatch):
    tl = pytest.importorskip("triton.language")
    from autogaze.vision_encoders.triton_kernels import cut_patches

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = [f"*{frames}", *["i32"] * 6, "*i64", "*i64", "*i32", f"*{frames}", *["constexpr"] * 3]
    signature = dict(zip(cut_patches.arg_names, types, strict=True))
    constants = {"SIDE": 14, "BLOCK": 16, "SUM": tl.float64 if frames == "fp64" else tl.float32}
    compiled = compile_for_gpu(
        cut_patches, signature, constants, num_warps=1, enable_fp_fusion=True
    )
    assert len(compiled.asm["cubin"]) > 1000


@pytest.mark.parametrize("width", [64, 72])
def test_attention_compiles_for_a_gpu(width, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.vision_encoders.triton_kernels import attend

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = ["*bf16", "i32", "i32"] * 3 + ["*bf16", "*i32", "i32", "fp32", *["constexpr"] * 5]
    signature = dict(zip(attend.arg_names, types, strict=True))
    options = launch_options(width)
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    compiled = compile_for_gpu(
        attend, signature, {"WIDTH": width, **options}, **launch, enable_fp_fusion=True
    )
    assert len(compiled.asm["cubin"]) > 1000
    assert "wgmma" in compiled.asm["ptx"]  # by tensor cores


@pytest.mark.parametrize(
    ("width", "parts"),
    [(16, (16, 0)), (64, (64, 0)), (72, (64, 16)), (88, (64, 32)), (128, (128, 0))],
)
def test_heads_are_read_in_two_powers_of_two(width, parts):
    options = launch_options(width)
    assert (options["FIRST"], options["REST"]) == parts


def on_a_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(*shape, device="cuda", dtype=dtype)


def test_it_is_taken_where_it_can_compute(monkeypatch):
    monkeypatch.setattr(attention, "triton_failure", lambda *_: "")
    layout = TokenLayout(((3, 2, 4),), "block_causal", CPU)
    assert suitable_backend(layout, on_a_gpu(2, 9, 64), 0.0) == "triton"
    even = TokenLayout(((3,), (3,)), "frame_independent", CPU)
    assert suitable_backend(even, on_a_gpu(2, 6, 64), 0.0) == "grouped"  # one call, without copies
    for query, dropout, named in (
        (torch.empty(2, 9, 64, dtype=torch.bfloat16), 0.0, "cpu"),
        (on_a_gpu(2, 9, 64, dtype=torch.float32), 0.0, "float32"),
        (on_a_gpu(2, 9, 20), 0.0, "20"),
        (on_a_gpu(2, 9, 8), 0.0, "8"),
        (on_a_gpu(2, 9, 136), 0.0, "136"),
        (on_a_gpu(2, 9, 64), 0.1, "0.1"),
        (on_a_gpu(1, 2**25, 64), 0.0, str(2**25)),
    ):
        assert named in why_not("triton", query, dropout)
        assert suitable_backend(layout, query, dropout) != "triton"
    query = on_a_gpu(2, 9, 64)
    assert "gradients" in why_not("triton", query, 0.0, with_gradients=True)
    assert suitable_backend(layout, query, 0.0, with_gradients=True) != "triton"
    monkeypatch.setattr(attention, "triton_failure", lambda *_: "it is too old")
    assert why_not("triton", on_a_gpu(2, 9, 64), 0.0) == "it is too old"


def test_gradients_of_keys_or_values_alone_are_wanted_too(monkeypatch):
    """As of an adapter beside the projection of values, in a model that is frozen."""
    monkeypatch.setattr(attention, "triton_failure", lambda *_: "")
    monkeypatch.setattr(attention, "KERNELS", {})
    for name in ("triton", "grouped"):
        monkeypatch.setattr(attention, f"{name}_attention", lambda *_, **__: torch.zeros(9, 2, 16))
    layout = TokenLayout(((3, 2, 4),), "block_causal", CPU)
    for wanting in range(3):
        with FakeTensorMode():
            tokens = [torch.empty(2, 9, 16, device="cuda", dtype=torch.half) for _ in range(3)]
            tokens[wanting].requires_grad_()
        with pytest.raises(EncoderError, match="gradients"):
            packed_attention(*tokens, layout, backend="triton")
        with recorded_backends() as backends:
            packed_attention(*tokens, layout)
        assert backends == {"grouped"}
        with torch.no_grad(), recorded_backends() as backends:
            packed_attention(*tokens, layout)
        assert backends == {"triton"}


def test_asking_for_what_cannot_be_had_is_an_error(monkeypatch):
    query = torch.randn(2, 9, 16)
    with pytest.raises(EncoderError, match=r"'triton'.*cpu"):
        packed_attention(
            *(query, query, query), TokenLayout(((9,),), "causal", CPU), backend="triton"
        )
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"'triton'.*autogaze\[gpu\]"):
        GazedSettings(backend="triton")


@pytest.mark.usefixtures("untried")
def test_without_triton_it_is_said_once(monkeypatch, caplog):
    for name in ("triton", "autogaze.vision_encoders.triton_kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("autogaze.vision_encoders.triton_kernels", raising=False)
    for _ in range(2):
        assert "autogaze[gpu]" in triton_failure(CPU, torch.float16, 64)
        assert "autogaze[gpu]" in patches.triton_failure(CPU, torch.float16)
    assert len([one for one in caplog.records if "autogaze[gpu]" in one.getMessage()]) == 2


@pytest.mark.usefixtures("untried")
def test_what_differs_is_not_used(monkeypatch):
    def fine(frames, ids, frame, pyramid):
        return patches._by_index(frames, ids, frame, pyramid, 64, None)

    def shifted(frames, ids, frame, pyramid):
        return fine(frames, ids, frame, pyramid) + (ids < 4)[:, None, None, None] * 0.01

    for cut, expected in ((fine, ""), (shifted, "differ")):
        patches.triton_failure.cache_clear()
        monkeypatch.setattr(patches, "cut_in_triton", cut)
        assert expected in patches.triton_failure(CPU, torch.float32)
    for value in (0.0, float("nan")):
        triton_failure.cache_clear()
        monkeypatch.setattr(
            key_ranges,
            "triton_attention",
            lambda q, *_, value=value: q.transpose(0, 1) * 0 + value,
        )
        assert "differ" in triton_failure(CPU, torch.float32, 16)


def test_frames_with_gradients_are_resized_in_full(monkeypatch):
    monkeypatch.setattr(patches, "triton_failure", lambda *_: "")
    frames = torch.rand(1, 3, 4, 4)
    assert patches._by_kernel(frames)
    assert not patches._by_kernel(frames.requires_grad_())
    with torch.no_grad():
        assert patches._by_kernel(frames)
