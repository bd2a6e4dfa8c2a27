"""Budget plot: patches per frame and scale over time, and the canvas loss."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from autogaze.errors import OutputError
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import Rendering, video_name
from autogaze.rendering.painter import scale_colours
from autogaze.rendering.plot_style import INK, SERIES, clean, require_matplotlib, save
from autogaze.rendering.summary import frame_stats

_MAX_POINTS = 2048
_MAX_BORDERS = 100  # more chunk borders cannot be told apart

TARGET_COLOUR = SERIES[2]


class Points(NamedTuple):
    """Points of the plot, each the mean of one frame or of several."""

    seconds: Float[np.ndarray, " P"]
    kept: Float[np.ndarray, "P scales"]
    loss: Float[np.ndarray, " P"]


class BudgetPlot(Rendering):
    """A PNG of the patches per frame and scale, stacked, above the canvas loss.

    In long videos a point is the mean of several frames, so that memory is constant.

    Args:
        title: a line over it; the video's file name by default.
        target: the canvas loss at which frames stop, marked if there is one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(
        self, path: str | Path, *, title: str | None = None, target: float | None = None
    ) -> None:
        super().__init__(path)
        require_matplotlib("the budget plot")
        self.title = title
        self.target = target
        self._borders: list[float] = []  # seconds at which chunks start
        self._pyramid: PatchPyramid | None = None
        self._rows: list[np.ndarray] = []  # seconds, loss, then patches per scale
        self._open: list[np.ndarray] = []
        self._span = 1  # frames per row
        self._end: float | None = None  # second at which the last frame leaves the screen

    def add(self, chunk: GazedChunk) -> None:
        if self._pyramid is None:
            self._pyramid = chunk.gaze.pyramid
            self.title = self.title or video_name(chunk)
        if len(self._borders) <= _MAX_BORDERS:
            self._borders.append(chunk.source.timestamps[0])
        self._end = chunk.source.end
        for stats in frame_stats(chunk):
            loss = np.nan if stats.loss is None else stats.loss
            self._open.append(np.array([stats.seconds, loss, *stats.kept]))
            if len(self._open) == self._span:
                self._rows.append(np.mean(self._open, axis=0))
                self._open = []
            if len(self._rows) == 2 * _MAX_POINTS:
                self._rows = list(np.reshape(self._rows, (_MAX_POINTS, 2, -1)).mean(axis=1))
                self._span *= 2

    def borders(self) -> list[float]:
        """Seconds of the chunk borders to draw: none where there are too many."""
        return self._borders[1:] if len(self._borders) <= _MAX_BORDERS else []

    def points(self) -> Points:
        """Points of the frames added so far."""
        rows = np.array([*self._rows, *([np.mean(self._open, axis=0)] if self._open else [])])
        return Points(rows[:, 0], rows[:, 2:], rows[:, 1])

    def edges(self) -> np.ndarray:
        """Seconds at which the points begin, and at which the last one ends."""
        starts = self.points().seconds
        step = float(np.median(np.diff(starts))) if len(starts) > 1 else 1.0
        end = starts[-1] + step if self._end is None else max(self._end, starts[-1])
        return np.append(starts, end)

    def finish(self) -> None:
        from matplotlib.figure import Figure

        if self._pyramid is None:
            raise OutputError(f"{self.path}: nothing was gazed at, so there is nothing to plot")
        points = self.points()
        figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
        patches, loss = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        edges = self.edges()
        self._draw_patches(patches, points, edges, self._pyramid.scales)
        self._draw_loss(loss, points, edges)
        for axes in (patches, loss):
            for border in self.borders():  # chunks are independent, which shows
                axes.axvline(border, color="#00000022", linewidth=0.6, linestyle=":")
            clean(axes)
        save(figure, self.path)

    def _draw_patches(
        self, axes: Any, points: Points, edges: np.ndarray, scales: tuple[int, ...]
    ) -> None:
        from matplotlib.ticker import MaxNLocator

        floor = np.zeros(len(points.seconds))
        for level, (scale, colour) in enumerate(
            zip(scales, scale_colours(len(scales)), strict=True)
        ):
            top = floor + points.kept[:, level]
            axes.stairs(
                top, edges, baseline=floor, fill=True, color=colour / 255, label=f"{scale} px"
            )
            floor = top
        axes.set_ylabel("patches per frame")
        axes.set_ylim(0, max(1.0, float(floor.max()) * 1.08))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(ncols=len(scales), frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        axes.set_title(self.title or "", loc="left", fontsize=12, fontweight="bold")

    def _draw_loss(self, axes: Any, points: Points, edges: np.ndarray) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.stairs(points.loss, edges, color=INK, linewidth=1.3, baseline=None)
        highest = float(points.loss.max())
        if self.target is not None:
            highest = max(highest, self.target)
            axes.axhline(self.target, color=TARGET_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"target {self.target:g}",
                xy=(1, self.target),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=TARGET_COLOUR,
            )
        axes.set_ylim(0, max(1e-3, highest * 1.15))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel("canvas loss")
        axes.set_xlabel("seconds")
        axes.set_xlim(edges[0], edges[-1])
