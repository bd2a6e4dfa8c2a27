"""Triton's operators of a layer, compiled for a GPU that is not here; `test_triton.py` interprets them."""

from typing import Any

import pytest
import torch

from autogaze.models.autogaze import triton_layer_ops
from autogaze.models.autogaze.layer_ops import LayerOps
from autogaze.models.autogaze.triton_layer_ops import layer_ops, triton_failure
from tests.triton_runs import compile_for_gpu

FLOATS, HALVES, INT, LONG = "*fp32", "*bf16", "i32", "i64"
NORM = {"EPS": 1e-5, "WIDTH": 192, "BLOCK": 256, "ROWS": 4}
KERNELS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "add_norm": ([FLOATS, HALVES, FLOATS, FLOATS, HALVES, INT], {"HAS_ADDED": True} | NORM),
    "add_norm_backward": (
        [FLOATS, FLOATS, FLOATS, HALVES, FLOATS, HALVES, FLOATS, INT],
        {"HAS_TOTAL": True, "HAS_ADDED": True} | NORM,
    ),
    "rotate": (
        [HALVES, INT, INT, INT, FLOATS, HALVES, INT, INT],
        {"SIGN": 1, "HEADS": 6, "HEAD": 32, "BLOCK": 1024},
    ),
    "gated": ([HALVES, HALVES, LONG], {"INNER": 384, "BLOCK": 1024}),
    "gated_backward": ([HALVES, HALVES, HALVES, LONG], {"INNER": 384, "BLOCK": 1024}),
}


@pytest.mark.parametrize("name", list(KERNELS))
def test_it_compiles_for_a_gpu(name: str, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze import layer_triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(layer_triton_kernels, name)
    types, constants = KERNELS[name]
    assert list(constants) == kernel.arg_names[len(types) :]
    signature = dict(zip(kernel.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
    compiled = compile_for_gpu(kernel, signature, constants, enable_fp_fusion=True)
    assert len(compiled.asm["cubin"]) > 1000


def test_cpus_have_pytorchs():
    assert type(layer_ops(torch.zeros(1, 2, 24), 8, 48)) is LayerOps


def test_what_differs_or_fails_is_said_once_and_not_used(monkeypatch, caplog):
    monkeypatch.setattr(triton_layer_ops, "_FAILURES", {})
    for difference, is_used in ((1e-6, True), (0.01, False), (float("nan"), False)):
        triton_layer_ops._FAILURES.clear()
        monkeypatch.setattr(triton_layer_ops, "_difference", lambda *_, by=difference: by)
        assert (triton_failure(torch.zeros(1, 2, 24), 8, 48) == "") == is_used

    def breaks(*_: object) -> float:
        raise RuntimeError("no kernel image is available")

    triton_layer_ops._FAILURES.clear()
    caplog.clear()
    monkeypatch.setattr(triton_layer_ops, "_difference", breaks)
    for _ in range(2):
        assert "no kernel image" in triton_failure(torch.zeros(1, 2, 24), 8, 48)
    assert len(caplog.records) == 1
