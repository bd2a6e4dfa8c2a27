"""The native tile cutter: PyTorch's bytes, and PyTorch itself where it cannot be built."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.utils.kernels import NotBuiltError, built_library, struct_function
from autogaze.video import native_tiling as kernel
from autogaze.video.native_tiling import AxisWeights, TileCutter, tile_cutter
from autogaze.video.tiling import cut_tiles, empty_tiles, plan_tiles, resize


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    struct_function.cache_clear()
    tile_cutter.cache_clear()
    yield tmp_path
    struct_function.cache_clear()
    tile_cutter.cache_clear()


def compiled() -> None:
    try:
        built_library(kernel.SOURCE)
    except NotBuiltError as error:
        pytest.skip(str(error))


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchs(pixels, plan):
    """The tiles, cut out of a frame that PyTorch resized."""
    whole = resize(pixels, plan.content_width, plan.content_height)
    side = plan.side
    rows = [whole[:, top : top + side] for top in range(0, plan.rows * side, side)]
    cuts = [row[..., left : left + side] for row in rows for left in range(0, row.shape[2], side)]
    return torch.stack(cuts)


@given(st.integers(9, 300), st.integers(9, 300), st.sampled_from([16, 31, 64]), st.integers(0, 9))
@settings(max_examples=25)
def test_bytes_are_those_of_pytorch(width, height, side, seed):
    compiled()
    plan = plan_tiles(width, height, side)
    assert not plan.padded
    if not kernel.is_suitable(plan):
        assert max(width / plan.content_width, height / plan.content_height) > 1.3
        return
    pixels = noise(width, height, seed)
    out = empty_tiles(plan, 3)
    out.fill_(7)
    TileCutter(plan)(pixels, out[:, 1])
    assert torch.equal(out[:, 1], torchs(pixels, plan))
    assert (out[:, ::2] == 7).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    compiled()
    plan, pixels = plan_tiles(200, 150, 32), noise(200, 150)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cut_tiles([pixels], plan)[:, 0], torchs(pixels, plan))
    finally:
        torch.set_num_threads(before)


def test_frames_that_are_views_are_cut_too():
    compiled()
    plan, pixels = plan_tiles(100, 90, 32), noise(200, 90)[:, ::-2]
    assert torch.equal(cut_tiles([pixels], plan)[:, 0], torchs(pixels, plan))


@pytest.mark.parametrize(("tiles", "size"), [("pad", (90, 70)), ("one", (900, 700))])
def test_other_plans_are_left_to_pytorch(tiles, size):
    compiled()
    plan, pixels = plan_tiles(*size, 64, tiles), noise(*size)
    assert tile_cutter(plan) is None
    cut = cut_tiles([pixels], plan)
    whole = resize(pixels, plan.content_width, plan.content_height)
    assert torch.equal(cut[0, 0], whole[:, :64, :64])


def test_without_a_compiler_pytorch_cuts(monkeypatch, fresh):
    monkeypatch.setenv("CC", str(fresh / "no-compiler"))
    plan, pixels = plan_tiles(100, 90, 32), noise(100, 90)
    assert tile_cutter(plan) is None
    assert torch.equal(cut_tiles([pixels], plan)[:, 0], torchs(pixels, plan))


def test_a_kernel_that_computes_wrongly_is_not_used(monkeypatch, fresh):
    compiled()
    wrong = fresh / "tile_frame.c"
    source = kernel.SOURCE.read_text()
    assert "+ 0.5f" in source
    wrong.write_text(source.replace("+ 0.5f", "+ 0.0f"))
    monkeypatch.setattr(kernel, "SOURCE", wrong)
    plan, pixels = plan_tiles(100, 90, 32), noise(100, 90)
    assert tile_cutter(plan) is None
    assert torch.equal(cut_tiles([pixels], plan)[:, 0], torchs(pixels, plan))


def test_weights_sum_up_to_a_power_of_two_and_stay_inside():
    axis = AxisWeights.of(2160, 2240)
    assert abs(axis.weights.sum(0) - 2**axis.bits).max() <= 1
    assert axis.first[0] == 0
    used = axis.weights[-1] > 0
    assert (axis.first + len(axis.weights) - 1)[used].max() <= 2159
    assert not AxisWeights.of(3840, 224).is_taken
