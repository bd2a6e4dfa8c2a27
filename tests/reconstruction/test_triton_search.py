"""The greedy search in Triton, compiled for GPUs that are not here; `test_triton.py` interprets it."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autogaze.errors import SelectorError
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction import search_kernel as choice
from autogaze.reconstruction.native_search import NativeCanvasSearch, native_search
from autogaze.reconstruction.search_kernel import (
    SWITCH,
    new_canvas_search,
    search_kernel,
    triton_failure,
)
from tests.selectors.clips import random_clips
from tests.triton_runs import compile_for_gpu

CUDA = torch.device("cuda", 0)


# Compiled for GPUs that are not here.

INT, LONG, BYTES, FLOATS, INTS, LONGS = "i32", "i64", "*u8", "*fp32", "*i32", "*i64"
UP = [INTS, FLOATS, INTS]
ROWS = {"SPLIT": 192, "BLOCK": 256}
STOPS = {
    "NEEDS_GAIN": True,
    "HAS_GIVEN": True,
    "KEEPS_GAINS": True,
    "SPLIT": 0,
    "CELLS": 256,
    "PATCHES": 512,
}
TURN = [INT, INT, LONG, LONG, LONG, LONG, LONG, FLOATS, INT]
SHRINK = [FLOATS, INT, INT, INT, FLOATS, INT, INT, INT, INTS, FLOATS, INT]
CANVAS = [FLOATS, INT, INT, FLOATS, INTS, INTS, FLOATS, INT, *UP, INTS, INT, INT, INT, FLOATS]
SEARCH = [
    *[LONGS, INT, FLOATS, INTS, INT, INT, INT, INTS, INTS, INT, INTS, *[INT] * 5, INTS, INTS, INT],
    *[LONGS] * 7,
    INTS,
]
KERNELS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("turn", [BYTES, *TURN], {"IS_BYTES": True, "TILE": 32}),
    ("turn", [FLOATS, *TURN], {"IS_BYTES": False, "TILE": 32}),
    ("shrink", SHRINK, {"BLOCK": 256}),
    ("widen", [FLOATS, INT, *[INTS] * 4, FLOATS, INT, INT, INTS, FLOATS], {"COLUMNS": 8, "ROWS": 256}),
    ("level_rows", [FLOATS, FLOATS, INT, *UP, INTS, INT, INT, FLOATS], ROWS),
    ("level_cells", [FLOATS, INTS, INT, INT, INT, LONGS, INT], {"SPLIT": 192, "CELLS": 128}),
    ("canvas_rows", CANVAS, {**ROWS, "PAINTS": False, "COMPARES": True}),
    ("canvas_rows", CANVAS, {**ROWS, "PAINTS": True, "COMPARES": True, "SPLIT": 0}),
    ("canvas_rows", CANVAS, {**ROWS, "PAINTS": True, "COMPARES": False}),
    ("search", SEARCH, STOPS),
    ("search", SEARCH, {**STOPS, "NEEDS_GAIN": False, "HAS_GIVEN": False, "KEEPS_GAINS": False}),
    # As the compiler sees a pyramid of one patch: numbers that are 1 are constants.
    ("search", [*SEARCH[:4], *SEARCH[5:9], SEARCH[10], *SEARCH[14:]],
     {**STOPS, "num_edges": 1, "widest": 1, "num_cells": 1, "num_levels": 1, "num_patches": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "types", "constants"), KERNELS, ids=[f"{k[0]}{i}" for i, k in enumerate(KERNELS)]
)
def test_kernels_compile_to_plain_float32(
    name: str, types: list[str], constants: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A GPU's assembler takes them, and their arithmetic rounds as IEEE 754 says."""
    pytest.importorskip("triton")
    from autogaze.reconstruction import triton_kernels, triton_search

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    others = iter(types)
    signature = {
        argument: "constexpr" if argument in constants else next(others)
        for argument in kernel.arg_names
    }
    compiled = compile_for_gpu(kernel, signature, constants, num_warps=4, **triton_search.PLAIN)
    # Triton 3.2 lets divisions flush: of what is divided here, bytes, nothing is subnormal.
    ptx = compiled.asm["ptx"].replace("div.rn.ftz.f32", "div.rn.f32")
    assert len(compiled.asm["cubin"]) > 1000
    # Subnormal numbers as they are, true divisions, nothing fused that is not asked for, no
    # cache that does not see what other kernels wrote.
    for unwanted in (".ftz", ".approx", "div.full", "fma.rn.f64", ".global.nc"):
        assert unwanted not in ptx
    products = name in ("shrink", "widen", "level_rows") or constants.get("PAINTS") is True
    assert ("fma.rn.f32" in ptx) == products
    assert ("div.rn.f32" in ptx) == (constants.get("IS_BYTES") is True)


# Where it cannot be had.


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for function in (triton_failure, choice._warn):
        function.cache_clear()


def test_it_is_for_cuda(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "triton")
    with pytest.raises(SelectorError, match="cpu"):
        search_kernel(PatchPyramid(), "cpu")


def test_without_triton_the_cpu_searches_and_says_so_once(
    untried: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("triton", "autogaze.reconstruction.triton_search"):
        monkeypatch.setitem(sys.modules, name, None)
    if native_search(PatchPyramid()).library is None:
        pytest.skip(native_search(PatchPyramid()).why)
    with caplog.at_level(logging.WARNING, "autogaze"):
        for pyramid in (PatchPyramid(), PatchPyramid((56, 112, 224), 14), PatchPyramid()):
            assert search_kernel(pyramid, CUDA).name == "native"
    [warning] = [each.getMessage() for each in caplog.records]
    assert "autogaze[gpu]" in warning
    assert isinstance(new_canvas_search(PatchPyramid(), 2, CUDA), NativeCanvasSearch)
    monkeypatch.setenv(SWITCH, "triton")
    with pytest.raises(SelectorError, match=re.escape("autogaze[gpu]")):
        search_kernel(PatchPyramid(), CUDA)


def test_what_cannot_run_or_differs_is_not_used(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from autogaze.reconstruction import triton_search

    fails = True

    class Other(NativeCanvasSearch):
        """A search on "a GPU" that chooses another patch once."""

        def __init__(self, pyramid: PatchPyramid, num_clips: int, device: Any, block: int) -> None:
            found = native_search(pyramid)
            assert found.library is not None
            super().__init__(pyramid, num_clips, found.library, found.block)

        def search_clips(self, frames: Any, ids: Any, **options: Any) -> Any:
            if fails:
                raise RuntimeError("no kernel image")
            return super().search_clips(frames, [[[3, *ids[0][0][1:]], ids[0][1]]], **options)

    if native_search(PatchPyramid()).library is None:
        pytest.skip(native_search(PatchPyramid()).why)
    monkeypatch.setattr(triton_search, "TritonCanvasSearch", Other)
    for expected in ("no kernel image", "rounded"):
        fails = expected != "rounded"
        triton_failure.cache_clear()
        assert expected in triton_failure(PatchPyramid(), CUDA)
        assert search_kernel(PatchPyramid(), CUDA).name == "native"


def test_c_takes_frames_of_a_gpu() -> None:
    """It copies them; a stand-in says how often."""
    pyramid = PatchPyramid()
    found = native_search(pyramid)
    if found.library is None:
        pytest.skip(found.why)

    class OnGpu(torch.Tensor):
        copies = 0

        def cpu(self, *args: Any, **options: Any) -> torch.Tensor:
            OnGpu.copies += 1
            return self.as_subclass(torch.Tensor)

    frames = random_clips(pyramid, 1, 1, seed=0)
    ids = [[None] * 5]
    search = NativeCanvasSearch(pyramid, 1, found.library, found.block)
    wanted = NativeCanvasSearch(pyramid, 1, found.library, found.block).search(frames[:, 0], ids)
    assert search.search(frames[:, 0].as_subclass(OnGpu), ids) == wanted
    assert OnGpu.copies == 1
