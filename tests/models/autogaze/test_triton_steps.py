"""A frame's steps in kernels, compiled for a GPU that is not here; `test_triton.py` interprets them."""

import sys
from typing import Any

import pytest
import torch

from autogaze.models.autogaze import triton_steps
from autogaze.models.autogaze.frame_steps import FrameSteps
from autogaze.models.autogaze.triton_steps import new_frame_steps, triton_failure
from tests.models.autogaze.tiny import tiny_model
from tests.triton_runs import compile_for_gpu


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(triton_steps, "_FAILURES", {})


@pytest.fixture
def decoder():
    return tiny_model().gazing_model.gaze_decoder.fused()


LONGS = {
    *("last", "caps", "places", "ends", "left", "turns", "counts", "unfed", "ids", "chosen"),
    "positions",
}
FLAGS = {"valid", "going", "taken", "kept"}
INTS = {"vision_row", "vision_token", "logits_row", "logits_slot", "losses_row", "capacity"}
SIZES = {"NUM_SLOTS": 10, "WIDTH": 192, "SLOTS": 16, "PADDED_WIDTH": 256}
CONSTANTS: dict[str, list[dict[str, Any]]] = {
    "begin": [SIZES | {"TOKENS": 16, "WIDE": 512}],
    "heads": [{"WIDTH": 192, "ROWS": n, "COLUMNS": m, "STEP": 64} for n, m in ((16, 32), (64, 64))],
    "block": [
        SIZES | {"PATCHES": 512, "TAKES": takes, "WEIGHTED": True, "SEQUENTIAL": False}
        for takes in (True, False)
    ],
}


def type_of(argument: str) -> str:
    if argument in LONGS:
        return "*i64"
    if argument in FLAGS:
        return "*u8"
    return "i32" if argument in INTS or argument.startswith("num_") else "*fp32"


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, some in CONSTANTS.items() for i in range(len(some))]
)
def test_it_compiles_for_a_gpu(name, number, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from autogaze.models.autogaze import frame_triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, constants = getattr(frame_triton_kernels, name), CONSTANTS[name][number]
    signature = {
        argument: "constexpr" if argument in constants else type_of(argument)
        for argument in kernel.arg_names
    }
    compiled = compile_for_gpu(kernel, signature, constants, enable_fp_fusion=name == "heads")
    assert len(compiled.asm["cubin"]) > 1000


def test_cpus_and_compilers_have_pytorchs(decoder, monkeypatch):
    monkeypatch.setattr(triton_steps, "triton_failure", lambda fused: "")
    steps = new_frame_steps(decoder, 16, sequential=True, compiled=False)
    assert type(steps) is FrameSteps


def test_without_triton_it_is_said_once(untried, decoder, monkeypatch, caplog):
    for name in ("triton", "autogaze.models.autogaze.frame_triton_kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("autogaze.models.autogaze.frame_triton_kernels", raising=False)
    for _ in range(2):
        assert "autogaze[gpu]" in triton_failure(decoder)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "autogaze[gpu]" in warning


def test_what_differs_is_not_used(untried, decoder, monkeypatch):
    monkeypatch.setattr(triton_steps, "differing", lambda fused: "block: ids")
    assert "block: ids" in triton_failure(decoder)


def test_what_a_compiler_cannot_do_is_not_used(untried, decoder, monkeypatch):
    def fails(fused):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(triton_steps, "differing", fails)
    assert "no kernel image" in triton_failure(decoder)


def test_a_trial_takes_no_more_patches_than_there_are():
    """On a GPU what is written behind a tensor's end breaks all that comes after."""
    fused = tiny_model(K=20).gazing_model.gaze_decoder.fused()
    rows = triton_steps.random_rows(fused, 200, 5, torch.Generator().manual_seed(0))
    assert 1 <= int(rows.caps.min()) < int(rows.caps.max()) <= 20


def test_half_precision_counts_in_float32(decoder):
    logits, losses = FrameSteps(decoder, 16, sequential=True).heads(torch.randn(2, 48))
    assert (logits.shape, losses.shape) == ((2, 4, 20), (2, 4))
    half = tiny_model().half().gazing_model.gaze_decoder.fused()
    assert FrameSteps(half, 16, sequential=True).heads(torch.randn(2, 48))[0].dtype == torch.float32


def test_both_heads_in_one_are_the_heads(decoder):
    hidden = torch.randn(3, 48)
    logits, losses = FrameSteps(decoder, 16, sequential=True).heads(hidden)
    expected_logits, expected_losses = decoder.heads(hidden)
    torch.testing.assert_close(logits, expected_logits[..., :-1])
    torch.testing.assert_close(losses, expected_losses)
