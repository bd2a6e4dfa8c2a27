"""Plans and cuts: what comes back together is what was cut."""

from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autogaze.errors import GeometryError
from autogaze.video.tiling import PADDING, cut_tiles, plan_tiles, resize, stitch_tiles

sizes = st.integers(1, 90)
sides = st.integers(4, 40)
modes = st.sampled_from(["one", "resize", "pad", "3x2"])


def frames_of(width, height, num_frames=2, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@given(width=sizes, height=sizes, side=sides)
@settings(max_examples=60, deadline=None)
def test_padding_keeps_every_pixel(width, height, side):
    plan = plan_tiles(width, height, side, "pad")
    frames = frames_of(width, height)
    tiles = cut_tiles(frames, plan)
    assert tiles.shape == (plan.num_tiles, 2, 3, side, side)
    together = stitch_tiles(tiles, plan)
    if max(width, height) >= side:
        assert (plan.content_width, plan.content_height) == (width, height)
        np.testing.assert_array_equal(together, frames)
    else:
        assert plan.num_tiles == 1
        assert max(plan.content_width, plan.content_height) == side
        assert together.shape == (2, plan.content_height, plan.content_width, 3)


@given(width=sizes, height=sizes, side=sides, mode=modes, limit=st.none() | st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_plans_are_tight_and_keep_the_limit(width, height, side, mode, limit):
    if mode == "3x2" and limit is not None and limit < 6:
        with pytest.raises(GeometryError, match="max_tiles"):
            plan_tiles(width, height, side, mode, max_tiles=limit)
        return
    plan = plan_tiles(width, height, side, mode, max_tiles=limit)
    assert (plan.width, plan.height, plan.side) == (width, height, side)
    if limit is not None:
        assert plan.num_tiles <= limit
    if mode == "pad":
        # No tile is all padding, and the aspect ratio is kept to the pixel.
        assert plan.content_width > (plan.columns - 1) * side
        assert plan.content_height > (plan.rows - 1) * side
        if min(plan.content_width, plan.content_height) > 1:
            aspect = width / height
            difference = plan.content_width - plan.content_height * aspect
            assert abs(difference) <= 0.5 + 0.5 * aspect + 1e-6
    else:
        assert not plan.padded


@given(width=sizes, height=sizes, side=sides, mode=modes)
@settings(max_examples=60, deadline=None)
def test_tiles_lie_where_the_plan_says(width, height, side, mode):
    plan = plan_tiles(width, height, side, mode)
    frame = frames_of(width, height, 1)
    tiles = cut_tiles(frame, plan)[:, 0]
    content = resize(frame[0], plan.content_width, plan.content_height)
    canvas = torch.full((3, plan.rows * side, plan.columns * side), PADDING, dtype=torch.uint8)
    canvas[:, : plan.content_height, : plan.content_width] = content
    for tile in range(plan.num_tiles):
        left, top = plan.origin(tile)
        assert torch.equal(tiles[tile], canvas[:, top : top + side, left : left + side])


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((448, 448), (2, 2)),
        ((1920, 1080), (9, 5)),
        ((3840, 2160), (18, 10)),
        ((640, 360), (3, 2)),
        ((1080, 1920), (5, 9)),
        ((224, 224), (1, 1)),
        ((64, 48), (1, 1)),
        ((4000, 10), (18, 1)),
    ],
)
def test_resize_stays_near_native_resolution_and_aspect(size, grid):
    plan = plan_tiles(*size, 224)
    assert (plan.columns, plan.rows) == grid


def test_limits_scale_down():
    assert plan_tiles(3840, 2160, 224, max_tiles=12).num_tiles <= 12
    assert plan_tiles(3840, 2160, 224, max_tiles=1).num_tiles == 1
    padded = plan_tiles(3840, 2160, 224, "pad", max_tiles=8)
    assert (padded.columns, padded.rows) == (4, 2)
    assert (padded.content_width, padded.content_height) == (796, 448)


@pytest.mark.parametrize("tiles", ["", "0x2", "3x", "2x2x2", "three", "-1x2", "resize "])
def test_unknown_modes(tiles):
    with pytest.raises(GeometryError, match="'one', 'resize', 'pad'") as raised:
        plan_tiles(64, 48, 16, tiles)
    assert str(raised.value).endswith(f"got {tiles!r}")


@pytest.mark.parametrize("value", [3, (3, 2), None, 2.5])
def test_values_of_another_type_are_refused(value):
    unchecked = unwrap(plan_tiles)  # users have no type checker that runs
    with pytest.raises(GeometryError, match=r"'one', 'resize', 'pad'.*3x2") as raised:
        unchecked(64, 48, 16, value)
    assert str(raised.value).endswith(f"got {value!r}")
    if value is not None:
        limit = str(value)
        with pytest.raises(GeometryError, match=r"^max_tiles .*\b1\b") as raised:
            unchecked(64, 48, 16, max_tiles=limit)
        assert str(raised.value).endswith(f"got {limit!r}")


def test_impossible_sizes():
    with pytest.raises(GeometryError, match="0 x 48"):
        plan_tiles(0, 48, 16)
    with pytest.raises(GeometryError, match=r"^max_tiles .*\b1\b.*\b0$"):
        plan_tiles(64, 48, 16, max_tiles=0)
    plan = plan_tiles(64, 48, 16)
    with pytest.raises(GeometryError, match="64 x 48 pixels as planned"):
        cut_tiles(frames_of(48, 64), plan)
    with pytest.raises(GeometryError, match="expected tiles"):
        stitch_tiles(torch.zeros(2, 1, 3, 16, 16, dtype=torch.uint8), plan)


@pytest.mark.parametrize("size", [(224, 224), (100, 60), (500, 301)])
def test_resize_is_antialiased_like_pillow(size):
    frame = frames_of(320, 240, 1)[0]
    ours = resize(frame, *size).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_a_list_of_frames_and_an_array_are_the_same():
    frames = frames_of(50, 30, 3)
    plan = plan_tiles(50, 30, 16)
    assert torch.equal(cut_tiles(list(frames), plan), cut_tiles(frames, plan))
