"""Holes of a canvas show their surroundings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.reconstruction.canvas import GREY, Canvas, reconstruct
from autogaze.reconstruction.holes import fill_holes, filled_canvas
from autogaze.reconstruction.resample import scale_views
from tests.tasks.material import TINY, some_clips, some_gaze


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([7, 16, 30]), st.floats(0.02, 0.98))
def test_paint_stays_and_holes_lie_between(seed, side, share):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(2, 3, side, side, generator=generator)
    painted = torch.rand(2, side, side, generator=generator) < share
    painted[:, 0, 0] = True
    filled = fill_holes(pictures, painted)
    for picture, made, mask in zip(pictures, filled, painted, strict=True):
        assert torch.equal(made[:, mask], picture[:, mask])
        for channel, known in zip(made, picture[:, mask], strict=True):
            assert known.min() - 1e-5 <= channel.min()
            assert channel.max() <= known.max() + 1e-5


def test_a_hole_takes_the_colour_around_it():
    picture = torch.zeros(1, 3, 32, 32)
    picture[..., 16:] = 1.0
    painted = torch.ones(1, 32, 32, dtype=torch.bool)
    painted[:, 8:12, 4:8] = painted[:, 20:24, 24:28] = False
    filled = fill_holes(picture.masked_fill(~painted[:, None], GREY), painted)
    assert filled[0, :, 8:12, 4:8].max() < 0.1
    assert filled[0, :, 20:24, 24:28].min() > 0.9


def test_where_nothing_was_painted_it_is_grey():
    filled = fill_holes(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool))
    torch.testing.assert_close(filled, torch.full_like(filled, GREY))


def test_frames_are_those_of_the_canvas_but_for_holes():
    frames, gaze = some_clips(2, 4), some_gaze(TINY.pyramid, 2, 4)
    filled, plain = filled_canvas(frames, gaze, [3, 1]), reconstruct(frames, gaze).frames
    for clip in range(2):
        for place, number in enumerate((3, 1)):
            canvas = Canvas(TINY.pyramid, 1)
            for earlier in range(number + 1):
                views = scale_views(frames[clip, earlier][None], TINY.pyramid)
                canvas.paint(views, gaze.mask[clip, earlier][None])
            seen = canvas.painted[0]
            made, wanted = filled[clip, place], plain[clip, number]
            assert torch.equal(made[:, seen], wanted[:, seen])
            torch.testing.assert_close(made[None], fill_holes(canvas.frames, canvas.painted))


@pytest.mark.parametrize("side", [32, 224])
def test_paint_is_known_where_patches_are(side):
    pyramid = TINY.pyramid if side == 32 else PatchPyramid()
    ids = torch.tensor([0, pyramid.num_patches - 1])
    gaze = Gaze(pyramid, ids, torch.tensor([[2]]))
    canvas = Canvas(pyramid, 1)
    views = scale_views(torch.rand(1, 3, side, side), pyramid)
    canvas.paint(views, gaze.mask[:, 0])
    first = side // pyramid.grids[0]
    assert canvas.painted[0, :first, :first].all()
    assert canvas.painted.sum() == first**2 + pyramid.patch_size**2
    masked = Canvas(pyramid, 1)
    masked._paint_masked(views, gaze.mask[:, 0])
    assert torch.equal(masked.painted, canvas.painted)
