"""The gaze decoder by Triton's kernels, compiled for a GPU that is not here; `test_triton.py` interprets them."""

import sys
from typing import Any

import pytest
import torch

from autogaze.models.autogaze import triton_decoder
from autogaze.models.autogaze.static_decoder import StaticDecoder
from autogaze.models.autogaze.triton_decoder import (
    EXACT,
    PRODUCTS,
    new_static_decoder,
    product_blocks,
    triton_failure,
)
from tests.models.autogaze.tiny import tiny_model
from tests.triton_runs import compile_for_gpu


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(triton_decoder, "_FAILURES", {})


INT, LONG = "i32", "i64"


def signatures(weight: str) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Types and constants of every kernel of the default architecture."""
    floats, longs, own = "*fp32", "*i64", f"*{weight}"
    counts = {"WIDTH": 192, "EPS": 1e-5}
    return {
        "project": (
            [*(floats, INT, own, floats, longs, longs, own, own, LONG, LONG), *[INT] * 3],
            counts | {"QUERIES": 192, "KEYS": 192, "HEAD": 32, "COLUMNS": 32, "SPLITS": 4},
        ),
        "attend": (
            [*(own, longs, own, LONG, LONG), *[INT] * 5, floats, floats],
            {"HEADS": 6, "KV_HEADS": 6, "HEAD": 32, "PADDED_HEAD": 32, "PARTS": 4},
        ),
        "add_product": (
            [*(floats, INT, floats, INT, floats, floats, own, INT)],
            {
                "WIDTH": 192,
                "OUTPUTS": 192,
                "HEAD": 32,
                "PADDED_HEAD": 32,
                "PARTS": 4,
                "COLUMNS": 32,
                "SPLITS": 8,
            },
        ),
        "gate_up": ([floats, own, own, INT], counts | {"INNER": 384, "COLUMNS": 32}),
    }


@pytest.mark.parametrize("weight", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(signatures("fp32")))
def test_it_compiles_for_a_gpu(name: str, weight: str, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze import decoder_triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(decoder_triton_kernels, name)
    types, constants = signatures(weight)[name]
    precision = "tf32x3" if weight == "fp32" else "ieee"
    follows = hasattr(pytest.importorskip("triton.language.extra.cuda"), "gdc_wait")
    constants |= {"PRECISION": precision, "ROWS": 16, "STEP": 64, "FOLLOWS": follows}
    assert set(constants) == set(kernel.arg_names[len(types) :])
    signature = dict(zip(kernel.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
    compiled = compile_for_gpu(kernel, signature, constants, enable_fp_fusion=True)
    assert len(compiled.asm["cubin"]) > 1000


RTX_4090, H100 = 99 * 1024, 227 * 1024
"""Bytes of shared memory that one program can have there."""


def test_blocks_of_many_tokens_fit_into_the_memory_of_a_smaller_gpu(tmp_path, monkeypatch):
    """A batch would fail in its middle: trials are of few rows."""
    pytest.importorskip("triton")
    from autogaze.models.autogaze import decoder_triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, (types, constants) = decoder_triton_kernels.gate_up, signatures("fp16")["gate_up"]
    constants |= {"PRECISION": "ieee", "FOLLOWS": False}
    needed = {}
    for memory in (RTX_4090, H100):
        _, blocks = product_blocks("gate_up", torch.float16, 1 << 16, 384, memory=memory)
        options = {name: blocks.pop(name) for name in ("num_warps", "num_stages")}
        kinds = [*types, *["constexpr"] * len(constants | blocks)]
        signature = dict(zip(kernel.arg_names, kinds, strict=True))
        compiled = compile_for_gpu(
            kernel, signature, constants | blocks, 89, enable_fp_fusion=True, **options
        )
        needed[memory] = compiled.metadata.shared
    assert needed[RTX_4090] <= RTX_4090 < needed[H100]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", list(PRODUCTS))
def test_an_h100_has_the_blocks_that_were_measured_on_it(name: str, dtype: torch.dtype):
    table = (EXACT if dtype == torch.float32 else PRODUCTS)[name]
    for num_tokens in (1, 10, 200, 1 << 16):
        found = product_blocks(name, dtype, num_tokens, 384, memory=H100)
        assert found == product_blocks(name, dtype, num_tokens, 384)
        assert found[1] in [blocks.options for blocks in table]


@pytest.mark.parametrize(
    ("width", "chunk", "splits"),
    [(192, None, 4), (384, None, 8), (512, None, 8), (576, None, 1), (192, 32, 8), (512, 32, 1)],
)
def test_channels_of_few_tokens_are_split_as_far_as_registers_hold_them(
    width: int, chunk: int | None, splits: int
) -> None:
    """Each split has a step or a head, and a product of many tokens is not split.

    Nor is one that a GPU's shared memory has no room for.
    """
    _, few = product_blocks("out", torch.float16, 10, 192, width, chunk)
    for memory, expected in ((H100, splits), (16 * 1024, 1)):
        _, blocks = product_blocks("out", torch.float16, 10, 192, width, chunk, memory=memory)
        assert blocks["SPLITS"] == expected
    _, many = product_blocks("out", torch.float16, 1 << 16, 192, width, chunk)
    assert (few["SPLITS"], many["SPLITS"]) == (splits, 1)


def test_cpus_and_compilers_have_pytorchs(monkeypatch):
    monkeypatch.setattr(triton_decoder, "triton_failure", lambda fused: "")
    decoder = tiny_model().gazing_model.gaze_decoder.fused()
    assert type(new_static_decoder(decoder, 1, 64, compiled=False)) is StaticDecoder


def test_what_differs_is_not_used(untried, monkeypatch):
    decoder = tiny_model().gazing_model.gaze_decoder.fused()
    for difference, is_used in ((1e-5, True), (0.01, False), (float("nan"), False)):
        triton_decoder._FAILURES.clear()
        monkeypatch.setattr(triton_decoder, "_difference", lambda fused, by=difference: by)
        assert (triton_failure(decoder) == "") == is_used


def test_what_fails_is_said_once_and_not_used(untried, monkeypatch, caplog):
    def breaks(fused: object) -> float:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(triton_decoder, "_difference", breaks)
    decoder = tiny_model().gazing_model.gaze_decoder.fused()
    for _ in range(2):
        assert "no kernel image" in triton_failure(decoder)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "takes longer" in warning


def test_without_triton_it_is_said(untried, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "autogaze.models.autogaze.decoder_triton_kernels", None)
    monkeypatch.delattr("autogaze.models.autogaze.decoder_triton_kernels", raising=False)
    decoder = tiny_model().gazing_model.gaze_decoder.fused()
    assert "autogaze[gpu]" in triton_failure(decoder)


def test_decoders_of_equal_sizes_are_tried_once(untried, monkeypatch):
    tried = []
    monkeypatch.setattr(triton_decoder, "_difference", lambda fused: tried.append(fused) or 0.0)
    models = [tiny_model(), tiny_model(1), tiny_model().to(torch.bfloat16), tiny_model(kv_heads=2)]
    decoders = [model.gazing_model.gaze_decoder.fused() for model in models]
    assert [triton_failure(decoder) for decoder in decoders] == [""] * 4
    assert tried == [decoders[0], *decoders[2:]]
