"""Triton's operators of a layer, compiled for a GPU that is not here; `test_triton.py` interprets them."""

from typing import Any

import pytest
import torch

from autogaze.models.autogaze import gaze_model
from autogaze.models.autogaze import layer_ops as module
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.layer_ops import LayerOps, is_usable, layer_ops
from tests.models.autogaze.tiny import tiny_model
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
    "cut_patches": (
        ["*u8", FLOATS, HALVES, LONG, INT],
        {"GRID": 14, "PATCH": 16, "BLOCK": 1024},
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
    monkeypatch.setattr(module, "_FAILURES", {})
    gpu = torch.device("cuda")
    for difference, expected in ((1e-6, True), (0.01, False), (float("nan"), False)):
        what = f"layers that differ by {difference}"
        assert is_usable(what, gpu, torch.float32, lambda by=difference: by) == expected

    def breaks() -> float:
        raise RuntimeError("no kernel image is available")

    caplog.clear()
    for _ in range(2):
        assert not is_usable("layers", gpu, torch.float32, breaks)
    assert [record.message.count("no kernel image") for record in caplog.records] == [1]


def test_patches_of_bytes_are_those_of_normalised_frames():
    model = tiny_model()
    side = model.gazing_model.config.input_img_size
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 2, 3, side, side), generator=generator, dtype=torch.uint8)
    expected, _ = model.gazing_model.vision_tokens(normalise(frames.float() / 255))
    assert model.gazing_model.tokens_of_bytes(frames).equal(expected)


def test_every_size_of_patches_is_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(gaze_model, "is_usable", lambda what, *_: tried.append(what) or False)
    frames = torch.zeros(1, 1, 3, 48, 48, dtype=torch.uint8)
    for patch in (16, 24):
        assert gaze_model.byte_patches(frames, torch.zeros(8, 3 * patch**2), patch) is None
    assert len({*tried}) == 2
