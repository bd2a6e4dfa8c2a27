"""Taking a block's patches in one kernel, compiled for a GPU that is not here; `test_triton.py` interprets it."""

import sys

import pytest
import torch

from autogaze.models.autogaze import block_taker
from autogaze.models.autogaze.block_taker import (
    limit_in_pytorch,
    take_in_pytorch,
    triton_failure,
)
from tests.triton_runs import compile_for_gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def untried():
    triton_failure.cache_clear()
    yield
    triton_failure.cache_clear()


@pytest.mark.parametrize("logits", ["*fp32", "*fp64"])
def test_it_compiles_for_a_gpu(logits, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze.triton_kernels import take_in_turn

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = [logits, *["i32"] * 4, "*u8", "*i64", "constexpr"]
    signature = dict(zip(take_in_turn.arg_names, types, strict=True))
    compiled = compile_for_gpu(take_in_turn, signature, {"BLOCK": 512}, enable_fp_fusion=False)
    assert len(compiled.asm["cubin"]) > 1000


def test_limits_compile_for_a_gpu(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze.triton_kernels import limit

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = ["*fp32", "i32", "*fp32", *["i32"] * 3, "*i64", "*u8", "*u8", "*i64", "*i64", "*fp32"]
    types += ["*i64", "*u8", "i32", "constexpr"]
    signature = dict(zip(limit.arg_names, types, strict=True))
    compiled = compile_for_gpu(limit, signature, {"BLOCK": 16}, enable_fp_fusion=False)
    assert len(compiled.asm["cubin"]) > 1000


def test_cpus_take_them_in_pytorch(monkeypatch):
    monkeypatch.setattr(block_taker, "triton_failure", lambda device: "")
    assert block_taker.block_taker(CPU) is take_in_pytorch
    assert block_taker.block_taker(CUDA) is block_taker.take_in_triton
    assert block_taker.block_limiter(CPU) is limit_in_pytorch
    assert block_taker.block_limiter(CUDA) is block_taker.limit_in_triton
    monkeypatch.setattr(block_taker, "triton_failure", lambda device: "it is too old")
    assert block_taker.block_taker(CUDA) is take_in_pytorch
    assert block_taker.block_limiter(CUDA) is limit_in_pytorch


def test_without_triton_it_is_said_once(untried, monkeypatch, caplog):
    for name in ("triton", "autogaze.models.autogaze.triton_kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("autogaze.models.autogaze.triton_kernels", raising=False)
    for _ in range(2):
        assert "autogaze[gpu]" in triton_failure(CPU)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "autogaze[gpu]" in warning


def test_what_differs_is_not_used(untried, monkeypatch):
    def others(logits, taken, ids):
        take_in_pytorch(logits, taken, ids)
        ids[0, 0] += 1

    monkeypatch.setattr(block_taker, "take_in_triton", others)
    assert "chooses other patches" in triton_failure(CPU)


def test_other_limits_are_not_used(untried, monkeypatch):
    def others(rows, losses, thresholds):
        limit_in_pytorch(rows, losses, thresholds)
        rows.left.add_(1)

    monkeypatch.setattr(block_taker, "take_in_triton", take_in_pytorch)
    monkeypatch.setattr(block_taker, "limit_in_triton", others)
    assert "keeps other patches" in triton_failure(CPU)
