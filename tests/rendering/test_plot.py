"""The budget plot: what it draws, bounded, and its optional dependency."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autogaze.errors import MissingExtraError
from autogaze.rendering import BudgetPlot, plot
from autogaze.rendering.painter import scale_colours
from tests.rendering.chunks import chunk

pytest.importorskip("matplotlib")


def test_points_are_frames(tmp_path: Path) -> None:
    with BudgetPlot(tmp_path / "plot.png") as budget:
        budget.add(chunk([[[0, 4], [1]], [[5], []]]))
        points = budget.points()
    assert points.seconds.tolist() == [0.0, pytest.approx(0.1)]
    assert points.kept.tolist() == [[1, 2], [1, 0]]
    assert points.loss.tolist() == pytest.approx([0.0, 0.01])
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1500, 690)
        colours = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {tuple(colour) for colour in scale_colours(2)} <= colours


def colours_of(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}


def test_the_target_is_marked(tmp_path: Path) -> None:
    for name, target in (("with", 0.5), ("without", None)):
        with BudgetPlot(tmp_path / f"{name}.png", target=target) as budget:
            budget.add(chunk([[[0]] * 16, [[1]] * 16]))
    marked = (0xC2, 0x41, 0x0C)
    assert marked in colours_of(tmp_path / "with.png")  # though all losses lie far below it
    assert marked not in colours_of(tmp_path / "without.png")


def test_chunk_borders_are_drawn_while_they_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "_MAX_BORDERS", 3)
    with BudgetPlot(tmp_path / "plot.png") as budget:
        for number, expected in enumerate(([], [1.6], [1.6, 3.2], [], [])):
            budget.add(chunk([[[0]] * 16, [[1]] * 16], first=16 * number))
            assert budget.borders() == pytest.approx(expected)
            assert len(budget._borders) <= 4


def test_long_videos_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "_MAX_POINTS", 8)
    with BudgetPlot(tmp_path / "plot.png") as budget:
        for first in range(0, 99, 3):
            budget.add(chunk([[[0]] * 3, [[1, 2]] * 3], first=first))
            assert len(budget._rows) < 16
        points = budget.points()
    assert (points.kept == [3, 0]).all()
    assert points.seconds[0] == pytest.approx(0.35)  # the mean of the first eight frames
    assert (np.diff(points.seconds) > 0).all()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"autogaze\[plot\]"):
        BudgetPlot("plot.png")
