"""Tiling, and stitching a gaze at everything: every source pixel once a scale."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze, PatchPyramid
from autogaze.source import Source
from autogaze.video.tiling import plan_tiles

PYRAMIDS = (
    PatchPyramid((16, 32), 8),
    PatchPyramid((8, 24, 40), 8),  # 24 and 40 share no finer grid
    PatchPyramid((12, 20), 4),  # coarse cells are 6.67 pixels wide
    PatchPyramid((32,), 16),
)
sizes = st.integers(1, 90)
modes = st.sampled_from(["one", "resize", "pad", "3x2"])


@given(
    width=sizes,
    height=sizes,
    mode=modes,
    pyramid=st.sampled_from(PYRAMIDS),
    zoom=st.sampled_from([1.0, 0.75, 2.0]),
    limit=st.none() | st.integers(6, 9),
)
@settings(max_examples=120, deadline=None)
def test_everything_covers_every_pixel_once_a_scale(width, height, mode, pyramid, zoom, limit):
    # Tiles may be cut at another side than the one they are looked at.
    plan = plan_tiles(width, height, round(zoom * pyramid.side), mode, max_tiles=limit)
    everything = Gaze.everything(pyramid, plan.num_tiles, 1)
    gaze = Gaze(
        pyramid, everything.ids, everything.lengths, source=Source(plan, (0.0,), (0,), path="a")
    )
    rectangles = gaze.rectangles().double()
    area = (rectangles[:, 2:] - rectangles[:, :2]).prod(dim=1)
    assert (rectangles[:, 2:] >= rectangles[:, :2]).all()
    assert (rectangles[:, :2] >= 0).all()
    assert (rectangles[:, 2:] <= torch.tensor([width, height])).all()
    levels = pyramid.levels[gaze.ids]
    for level in range(len(pyramid.scales)):
        # No two share area, so all of the frame's area together is every pixel once.
        assert area[levels == level].sum().item() == pytest.approx(width * height, rel=1e-4)
        assert shared_area(rectangles[levels == level]) < 1e-3


def shared_area(rectangles: torch.Tensor) -> float:
    """The largest area that two of them have in common."""
    low = torch.maximum(rectangles[:, None, :2], rectangles[None, :, :2])
    high = torch.minimum(rectangles[:, None, 2:], rectangles[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)
    return float(common.fill_diagonal_(0).max())


@given(width=sizes, height=sizes, mode=modes, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_patch_lies_where_its_pixels_were_taken(width, height, mode, data):
    pyramid = data.draw(st.sampled_from(PYRAMIDS))
    plan = plan_tiles(width, height, pyramid.side, mode)
    tile = data.draw(st.integers(0, plan.num_tiles - 1))
    patch = data.draw(st.integers(0, pyramid.num_patches - 1))
    lengths = torch.zeros(plan.num_tiles, 1, dtype=torch.long)
    lengths[tile] = 1
    gaze = Gaze(pyramid, torch.tensor([patch]), lengths, source=Source(plan, (0.0,), (0,)))
    (box,) = gaze.rectangles().tolist()
    left, top = plan.origin(tile)
    x0, y0, x1, y1 = pyramid.rectangle(patch)
    across, down = plan.scale
    expected = [
        min((left + x0) * across, width),
        min((top + y0) * down, height),
        min((left + x1) * across, width),
        min((top + y1) * down, height),
    ]
    assert box == pytest.approx(expected, abs=1e-3)
