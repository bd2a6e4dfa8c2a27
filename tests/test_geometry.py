import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogaze import PatchPyramid
from autogaze.errors import GeometryError


@st.composite
def pyramids(draw):
    """Pyramids of one to four scales, none of them a multiple of the finest by design."""
    patch = draw(st.integers(1, 16))
    grids = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True).map(sorted))
    return PatchPyramid(tuple(grid * patch for grid in grids), patch)


def test_default_is_the_published_vocabulary():
    pyramid = PatchPyramid()
    assert pyramid.grids == (2, 4, 7, 14)
    assert pyramid.offsets == (0, 4, 20, 69)
    assert pyramid.num_patches == 265
    assert pyramid.rectangle(pyramid.id(112, 6, 6)) == (192, 192, 224, 224)


@given(pyramids())
def test_id_and_locate_are_inverse(pyramid):
    ids = [
        pyramid.id(scale, row, column)
        for scale, grid in zip(pyramid.scales, pyramid.grids, strict=True)
        for row in range(grid)
        for column in range(grid)
    ]
    assert ids == list(range(pyramid.num_patches))
    for patch in ids:
        assert pyramid.id(*pyramid.locate(patch)) == patch


@given(pyramids())
def test_rectangles_tile_the_frame_once_a_scale(pyramid):
    area = (pyramid.rectangles[:, 2:] - pyramid.rectangles[:, :2]).prod(1)
    for level in range(len(pyramid.scales)):
        assert area[pyramid.levels == level].sum().item() == pytest.approx(
            pyramid.side**2, rel=1e-4
        )
    assert pyramid.rectangles.min() == 0
    assert pyramid.rectangles.max().item() == pytest.approx(pyramid.side, rel=1e-5)


@given(pyramids())
def test_a_pixel_belongs_to_the_cell_that_holds_its_centre(pyramid):
    for scale in pyramid.scales:
        edges = pyramid.pixel_edges(scale)
        assert edges[0] == 0
        assert edges[-1] == pyramid.side
        width = pyramid.patch_size * pyramid.side / scale
        for pixel in range(pyramid.side):
            cell = next(k for k in range(len(edges) - 1) if edges[k] <= pixel < edges[k + 1])
            assert cell * width <= pixel + 0.5 + 1e-9
            assert pixel + 0.5 < (cell + 1) * width + 1e-9


@given(pyramids(), st.data())
def test_overlapping_patches_are_those_that_share_area(pyramid, data):
    patch = data.draw(st.integers(0, pyramid.num_patches - 1))
    scale = data.draw(st.sampled_from(pyramid.scales))
    left, top, right, bottom = pyramid.rectangle(patch)
    level = pyramid.level(scale)
    expected = []
    for other in range(pyramid.offsets[level], pyramid.offsets[level] + pyramid.cells[level]):
        x0, y0, x1, y1 = pyramid.rectangle(other)
        if min(right, x1) - max(left, x0) > 1e-3 and min(bottom, y1) - max(top, y0) > 1e-3:
            expected.append(other)
    assert list(pyramid.overlapping(patch, scale)) == expected


def test_cropped_scales_leave_the_remainder_uncovered():
    pyramid = PatchPyramid((384,), 14, crop=True)
    assert pyramid.grids == (27,)
    assert pyramid.rectangles.max() == 378


@pytest.mark.parametrize(
    ("scales", "patch", "words"),
    [
        ((), 16, "ascending"),
        ((64, 32), 16, "ascending"),
        ((32, 32), 16, "ascending"),
        ((8, 32), 16, "smaller than one patch"),
        ((32, 100), 16, r"\b100 .*\b16\b.*\b96\b"),
        ((32,), 0, "at least 1 pixel"),
    ],
)
def test_impossible_pyramids_are_refused(scales, patch, words):
    with pytest.raises(GeometryError, match=words):
        PatchPyramid(scales, patch)


def test_scales_as_configs_write_them():
    assert PatchPyramid.parse("32+64", 16) == PatchPyramid((32, 64), 16)
    assert PatchPyramid.parse(224, 16) == PatchPyramid((224,), 16)
    with pytest.raises(GeometryError, match="must look like"):
        PatchPyramid.parse("32,64", 16)


def test_ids_outside_are_refused():
    pyramid = PatchPyramid((32, 64), 16)
    for call in (
        lambda: pyramid.locate(20),
        lambda: pyramid.rectangle(-1),
        lambda: pyramid.id(64, 4, 0),
        lambda: pyramid.id(48, 0, 0),
    ):
        with pytest.raises(GeometryError):
            call()
