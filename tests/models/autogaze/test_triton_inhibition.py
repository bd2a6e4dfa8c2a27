"""Inhibition of return in kernels, compiled for a GPU that is not here; `test_triton.py` interprets them."""

import sys

import pytest
import torch

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze import inhibition
from autogaze.models.autogaze.inhibition import (
    InhibitionOfReturn,
    TritonInhibition,
    new_inhibition,
    triton_failure,
)
from tests.triton_runs import compile_for_gpu

CPU, PYRAMID = torch.device("cpu"), PatchPyramid((32, 64), 16)
INT, LONG, FLOATS, BYTES = "i32", "i64", "*fp32", "*u8"
KERNELS = {
    "cut": (
        ["*fp16", INT, INT, INT, FLOATS, FLOATS, INT, INT],
        {"SIDE": 224, "SCALE": 64, "GRID": 4, "SIZE": 16, "TAPS": 5, "BLOCK": 256},
    ),
    **{
        f"turn {remembers} {weighs}": (
            [
                *(FLOATS, BYTES, INT, INT, FLOATS, INT, "*i64", INT, BYTES, INT, INT, BYTES),
                *(FLOATS, INT, "fp32", "fp32", FLOATS),
            ],
            {"BLOCK": 1024, "IDS": 32, "REMEMBERS": remembers, "WEIGHS": weighs},
        )
        for remembers, weighs in ((True, True), (True, False), (False, True))
    },
}


@pytest.fixture
def untried():
    triton_failure.cache_clear()
    yield
    triton_failure.cache_clear()


@pytest.mark.parametrize("name", list(KERNELS))
def test_it_compiles_for_a_gpu(name, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze import frame_triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, (types, constants) = getattr(frame_triton_kernels, name.split()[0]), KERNELS[name]
    assert set(constants) == set(kernel.arg_names[len(types) :])
    signature = dict(zip(kernel.arg_names, [*types, *["constexpr"] * len(constants)], strict=True))
    compiled = compile_for_gpu(kernel, signature, constants, enable_fp_fusion=name == "cut")
    assert len(compiled.asm["cubin"]) > 1000


def test_cpus_have_pytorchs(monkeypatch):
    monkeypatch.setattr(inhibition, "triton_failure", lambda pyramid, device: "")
    assert type(new_inhibition(PYRAMID, 0.1, CPU)) is InhibitionOfReturn
    assert type(new_inhibition(PYRAMID, 0.1, torch.device("cuda"))) is TritonInhibition
    monkeypatch.setattr(inhibition, "triton_failure", lambda pyramid, device: "too old")
    assert type(new_inhibition(PYRAMID, 0.1, torch.device("cuda"))) is InhibitionOfReturn


def test_without_triton_it_is_said_once(untried, monkeypatch, caplog):
    for name in ("triton", "autogaze.models.autogaze.frame_triton_kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("autogaze.models.autogaze.frame_triton_kernels", raising=False)
    for _ in range(2):
        assert "autogaze[gpu]" in triton_failure(PYRAMID, CPU)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "autogaze[gpu]" in warning


def test_what_differs_is_not_used(untried, monkeypatch):
    monkeypatch.setattr(TritonInhibition, "pixels", lambda self, frames: torch.zeros(2, 3, 20, 768))
    assert "pixels" in triton_failure(PYRAMID, CPU)
