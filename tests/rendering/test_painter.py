"""Every pixel of a picture knows its patch, and agrees with the gaze's own rectangles."""

import numpy as np
import pytest
import torch

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.rendering.painter import display_size, patch_maps
from autogaze.source import Source, TileGrid

PYRAMIDS = [
    PatchPyramid(),
    PatchPyramid((32, 64), 16),
    PatchPyramid((30, 70), 14, crop=True),
]


@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_picked_pixels_lie_in_the_rectangle(pyramid: PatchPyramid, padded: bool) -> None:
    side = pyramid.side
    content = (2 * side - 9, side - 5) if padded else (2 * side, side)
    tiles = TileGrid(300, 160, 2, 1, side, *content)
    maps = patch_maps(pyramid, tiles, 300, 160)
    for tile, patch in [(0, 0), (0, pyramid.num_patches - 1), (1, 1), (1, pyramid.num_patches - 2)]:
        gaze = Gaze(
            pyramid,
            torch.tensor([patch]),
            torch.tensor([[1 - tile], [tile]]),
            source=Source(tiles, (0.0,), (0,)),
        )
        left, top, right, bottom = gaze.rectangles()[0].tolist()
        level = int(pyramid.levels[patch])
        chosen = gaze.masks()[level].reshape(-1).numpy()
        rows, columns = np.nonzero(maps[level].pixels(chosen))
        # A pixel is picked if and only if its centre lies in the patch.
        expected_rows = [y for y in range(160) if top <= y + 0.5 < bottom]
        expected_columns = [x for x in range(300) if left <= x + 0.5 < right]
        assert sorted(set(rows)) == expected_rows
        assert sorted(set(columns)) == expected_columns
        assert len(rows) == len(expected_rows) * len(expected_columns)


def test_a_scale_covers_every_pixel_once() -> None:
    tiles = TileGrid(200, 100, 2, 1, 224, 448, 224)
    maps = patch_maps(PatchPyramid(), tiles, 200, 100)
    assert len(maps) == len(PatchPyramid().scales)
    for map_ in maps:
        assert map_.cells.min() == 0
        assert set(np.unique(map_.cells)) == set(range(map_.num_cells))


def test_cropped_scales_leave_pixels_uncovered() -> None:
    pyramid = PatchPyramid((30, 70), 14, crop=True)
    coarse, fine = patch_maps(pyramid, TileGrid(70, 70, 1, 1, 70, 70, 70), 70, 70)
    assert (coarse.cells[:, -1] == -1).all()
    assert not coarse.edges[:, -1].any()
    assert not coarse.pixels(np.ones(coarse.num_cells, dtype=bool))[-1].any()
    assert (fine.cells >= 0).all()


def test_edges_are_the_border_of_each_patch() -> None:
    (coarse, _) = patch_maps(
        PatchPyramid((32, 64), 16), TileGrid(64, 64, 1, 1, 64, 64, 64), 64, 64, line=2
    )
    inside = ~coarse.edges[:32, :32]
    assert inside[2:-2, 2:-2].all()
    assert inside.sum() == 28 * 28


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1920, 1080), (1280, 720)),
        ((3840, 2160), (1280, 720)),
        ((1280, 720), (1280, 720)),
        ((101, 77), (640, 488)),
        ((240, 480), (320, 640)),
        ((5000, 3), (1280, 2)),
    ],
)
def test_display_size_is_even_and_bounded(
    source: tuple[int, int], expected: tuple[int, int]
) -> None:
    width, height = source
    tiles = TileGrid(width, height, 1, 1, 224, 224, 224)
    assert display_size(tiles, 1280, 640) == expected
