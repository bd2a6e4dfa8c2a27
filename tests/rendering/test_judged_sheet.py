"""Sheets of what a judge makes of a gaze: everything at its place."""

import numpy as np
import torch
from PIL import Image

from autogaze.rendering.judged_sheet import GAIN, Judged, JudgedSheet
from autogaze.rendering.palette import scale_colours
from autogaze.rendering.sheet import GAP, LABELS, MARGIN
from tests.rendering.chunks import chunk

WIDTH, HEIGHT = 144, 72  # of a small picture with `cell=136`: the area of 136 x 76.5, 2:1
LEFT, TOP = MARGIN + LABELS, MARGIN + 78


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    x, y = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP)
    return np.asarray(sheet)[y : y + HEIGHT, x : x + WIDTH]


def test_rows_are_the_frame_its_gaze_both_views_and_what_they_miss() -> None:
    seen = chunk([[[0], []], [[], [4 + 15]]])  # white frames of two tiles
    sheet = JudgedSheet(seen.gaze, seen.source, "learned", cell=136)
    shown = sheet.places(0, 2)
    assert shown == [0, 1]
    black, nearly = torch.zeros(2, 2, 3, 64, 64), torch.full((2, 2, 3, 64, 64), 0.96)
    sheet.add(seen, shown, Judged(black, torch.ones(2)), Judged(nearly, torch.full((2,), 0.04)))
    image = sheet.image("title", "subtitle")
    assert (cell(image, 0, 0) == 255).all()
    gazed = cell(image, 1, 0)
    assert (gazed[2:34, 2:34] == 255).all()
    assert (gazed[0, :36] == scale_colours(2)[0]).all()
    assert (gazed[40:] < 100).all()
    assert (cell(image, 1, 1)[56:70, -16:-2] == 255).all()
    assert (cell(image, 2, 0) == 0).all()
    assert (cell(image, 3, 1) == round(0.96 * 255)).all()
    assert (cell(image, 4, 0) == 255).all()
    assert np.abs(cell(image, 5, 1).astype(int) - 255 * GAIN * 0.04).max() <= 1


def test_columns_are_spread_over_all_chunks() -> None:
    whole = chunk([[[0]] * 40, [[1]] * 40])
    sheet = JudgedSheet(whole.gaze, whole.source, "learned")
    numbers = [first + n for first in (0, 16, 32) for n in sheet.places(first, min(16, 40 - first))]
    assert len(numbers) == 8
    assert (numbers[0], numbers[-1]) == (0, 39)
    assert set(np.diff(numbers)) <= {5, 6}
