"""Gazing for encoders with another grid: what is cut is put back where it was."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze import Gaze, PatchPyramid
from autogaze.errors import GeometryError
from autogaze.models.autogaze.grid_adaptation import GridAdaptation
from tests.gazes import gazes, same

FEW = settings(max_examples=40, deadline=None)


@st.composite
def pyramids(draw, levels, patch=None):
    """Any ascending grids, and scales that may leave some pixels uncovered."""
    patch = draw(st.integers(1, 6)) if patch is None else patch
    grids = draw(st.lists(st.integers(1, 9), min_size=levels, max_size=levels, unique=True))
    scales = [grid * patch + draw(st.integers(0, patch - 1)) for grid in sorted(grids)]
    return PatchPyramid(tuple(scales), patch, crop=True)


@st.composite
def adaptations(draw):
    levels = draw(st.integers(1, 3))
    own = draw(pyramids(levels))
    return GridAdaptation(PatchPyramid(tuple(g * 4 for g in own.grids), 4), draw(pyramids(levels)))


def reach(adaptation: GridAdaptation) -> list[int]:
    """Cells a side that the tiles cover, of those the target has, per scale."""
    both = zip(adaptation.own.grids, adaptation.target.grids, strict=True)
    return [min(adaptation.tiles * own, target) for own, target in both]


@given(adaptations(), st.integers(1, 2), st.integers(1, 2))
@FEW
def test_everything_stays_everything(adaptation, clips, frames):
    tiles = Gaze.everything(adaptation.own, clips * adaptation.tiles**2, frames)
    gaze = adaptation.stitch(tiles)
    assert gaze.pyramid == adaptation.target
    assert gaze.lengths.shape == (clips, frames)
    for mask, grid, cells in zip(
        gaze.masks(), adaptation.target.grids, reach(adaptation), strict=True
    ):
        square = mask.view(clips, frames, grid, grid)
        assert square[..., :cells, :cells].all()
        # Only where an encoder's coarse grid is finer than its tiles' coarse grids together.
        assert not square[..., cells:, :].any()
        assert not square[..., cells:].any()
    assert reach(adaptation)[-1] == adaptation.target.grids[-1]
    if reach(adaptation) == list(adaptation.target.grids):
        assert same(gaze, Gaze.everything(adaptation.target, clips, frames))


@pytest.mark.parametrize(
    ("scales", "patch", "num_patches"),
    [
        ((56, 112, 196, 392), 14, 1060),
        ((32, 64, 112, 224), 16, 265),
        ((64, 128, 224, 448), 16, 1060),
    ],
)
def test_grids_of_known_encoders_are_covered_whole(scales, patch, num_patches):
    adaptation = GridAdaptation(PatchPyramid(), PatchPyramid(scales, patch))
    gaze = adaptation.stitch(Gaze.everything(adaptation.own, 2 * adaptation.tiles**2, 1))
    assert gaze.lengths.tolist() == [[num_patches]] * 2
    assert gaze.ratio == 1


@given(gazes(clips=2, frames=2))
@FEW
def test_the_selectors_own_grid_is_left_as_it_is(gaze):
    adaptation = GridAdaptation(gaze.pyramid, gaze.pyramid)
    assert adaptation.tiles == 1
    assert adaptation.stitch(gaze).mask.equal(gaze.mask)


@given(adaptations(), st.data())
@FEW
def test_a_patch_of_a_tile_lands_in_that_tile(adaptation, data):
    own, target, n = adaptation.own, adaptation.target, adaptation.tiles
    row, column = (data.draw(st.integers(0, n - 1)) for _ in range(2))
    patch = data.draw(st.integers(0, own.num_patches - 1))
    lengths = torch.zeros(n * n, 1, dtype=torch.long)
    lengths[row * n + column] = 1
    gaze = adaptation.stitch(Gaze(own, torch.tensor([patch]), lengths))
    scale, y, x = own.locate(patch)
    level = own.level(scale)
    grid = own.grids[level]
    y, x = row * grid + y, column * grid + x
    if max(y, x) < target.grids[level]:
        assert gaze.ids.tolist() == [target.id(target.scales[level], y, x)]
    else:
        assert gaze.num_patches == 0  # it lies outside the encoder's grid


@given(adaptations(), st.integers(1, 2))
@FEW
def test_cutting_pads_right_and_below_and_keeps_pixels(adaptation, clips):
    # With the selector's patch size a tile has the selector's side: nothing is resized.
    own = adaptation.own
    target = adaptation.target
    own = PatchPyramid(tuple(grid * target.patch_size for grid in own.grids), target.patch_size)
    adaptation = GridAdaptation(own, target)
    side, n, s = target.side, adaptation.tiles, own.side
    video = torch.rand(clips, 2, 3, side, side) + 1
    tiles = adaptation.cut(video)
    assert tiles.shape == (clips * n * n, 2, 3, s, s)
    # (clip, tile row, tile column, frame, channel, y, x) to whole frames
    whole = tiles.view(clips, n, n, 2, 3, s, s).permute(0, 3, 4, 1, 5, 2, 6)
    whole = whole.reshape(clips, 2, 3, n * s, n * s)
    covered = min(side, n * s)  # a cropped target's last pixels belong to no patch
    assert covered >= target.grids[-1] * target.patch_size
    assert whole[..., :covered, :covered].equal(video[..., :covered, :covered])
    assert not whole[..., covered:, :].any()
    assert not whole[..., covered:].any()


@given(adaptations())
@FEW
def test_tiles_have_the_selectors_side(adaptation):
    side = adaptation.target.side
    tiles = adaptation.cut(torch.zeros(1, 1, 3, side, side))
    assert tiles.shape == (adaptation.tiles**2, 1, 3, *[adaptation.own.side] * 2)


def test_what_does_not_fit_is_refused():
    own = PatchPyramid((32, 64), 16)
    with pytest.raises(GeometryError, match=r"\(128,\).*\(32, 64\)"):
        GridAdaptation(own, PatchPyramid((128,), 16))
    adaptation = GridAdaptation(own, PatchPyramid((64, 128), 16))
    with pytest.raises(GeometryError, match=r"128 x 128.*64 x 64"):
        adaptation.cut(torch.zeros(1, 1, 3, 64, 64))
