"""Contact sheets: the right frames, and only chosen patches at their place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autogaze.rendering import ContactSheet
from autogaze.rendering.painter import PANEL, scale_colours
from autogaze.rendering.sheet import GAP, LABELS, MARGIN
from tests.rendering.chunks import chunk

WIDTH, HEIGHT = 144, 72  # of a small picture with `cell=136`: the area of 136 x 76.5, 2:1
LEFT, TOP = MARGIN + LABELS, MARGIN + 78


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    x, y = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP)
    return np.asarray(sheet)[y : y + HEIGHT, x : x + WIDTH]


def test_rows_are_the_frame_each_scale_and_the_canvas(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    with ContactSheet(path, cell=136) as sheet:
        sheet.add(chunk([[[0], []], [[], [4 + 15]]]))
    with Image.open(path) as image:
        image.load()
    assert (cell(image, 0, 0) == 255).all()
    coarse = cell(image, 1, 0)
    assert (coarse[:36, :36] == 255).all()
    assert (coarse[36:] == PANEL).all()
    assert (coarse[:, 36:] == PANEL).all()
    assert (cell(image, 2, 0) == PANEL).all()
    assert (cell(image, 1, 1) == PANEL).all()
    fine = cell(image, 2, 1)
    assert (fine[54:, -18:] == 255).all()
    assert (fine[:54] == PANEL).all()
    assert (cell(image, 3, 0) == 0).all()  # the canvas of white frames is black here
    for row, colour in enumerate(scale_colours(2)):
        y = TOP + (row + 1) * (HEIGHT + GAP) + 10
        assert image.getpixel((MARGIN + 1, y)) == tuple(colour)


def test_patches_are_as_sharp_as_their_scale(tmp_path: Path) -> None:
    stripes = torch.zeros(2, 1, 3, 64, 64)
    stripes[..., ::2] = 255  # one pixel wide: only the finest scale can show them
    with ContactSheet(tmp_path / "sheet.png", cell=136) as sheet:
        sheet.add(chunk([[list(range(20))], [list(range(20))]], stripes))
        image = sheet.image()
    assert cell(image, 1, 0)[10:-10, 10:-10].std() < 12
    assert cell(image, 2, 0)[10:-10, 10:-10].std() > 50


@pytest.mark.parametrize("count", [1, 2, 8, 9, 65, 300])
@pytest.mark.parametrize("known", [True, False])
def test_at_most_eight_columns_from_first_to_last(count: int, known: bool, tmp_path: Path) -> None:
    sheet = ContactSheet(tmp_path / "sheet.png", num_frames=count if known else None, cell=32)
    with sheet:
        for first in range(0, count, 16):
            size = min(16, count - first)
            sheet.add(chunk([[[0]] * size, [[1]] * size], first=first))
            assert len(sheet._columns) <= 24
        numbers = [column.stats.number for column in sheet.columns()]
    assert len(numbers) == min(8, count)
    assert numbers[0] == 0
    gaps = np.diff(numbers)
    if known and count > 1:
        assert numbers[-1] == count - 1
        assert gaps.max() - gaps.min() <= 1
    elif count > 1:
        assert numbers[-1] >= count * 0.85 - 1
    # Chunks have 16 frames and begin alike: columns must not all be first frames.
    if count > 16:
        assert any(number % 16 for number in numbers)


def test_size_does_not_depend_on_aspect_alone(tmp_path: Path) -> None:
    with ContactSheet(tmp_path / "sheet.png") as sheet:
        sheet.add(chunk([[[0]] * 8, [[]] * 8]))
        width, height = sheet.image().size
    assert 2000 < width < 3500
    assert 500 < height < 1500
