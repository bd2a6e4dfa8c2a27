"""Budget over time: how many patches each frame got, scale by scale, and the loss left."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from autogaze.errors import MissingExtraError, OutputError
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import Rendering
from autogaze.rendering.painter import FrameFacts, frame_facts
from autogaze.rendering.palette import scale_colours
from autogaze.utils.files import replacing

_MAX_POINTS = 2048
_MAX_BORDERS = 100  # more chunk borders would be a grey wall


@dataclass(frozen=True)
class Points:
    """What is drawn: each point is the mean of a frame, or of several in long videos."""

    seconds: Float[np.ndarray, " P"]
    kept: Float[np.ndarray, "P scales"]
    loss: Float[np.ndarray, " P"]


class BudgetPlot(Rendering):
    """A PNG of patches a frame by scale, stacked, over the loss left.

    Long videos are averaged over more and more frames a point, so that memory stays
    constant in their length.

    Args:
        path: of the PNG.
        title: a line over it; the video's file name by default.
        target: the canvas loss at which frames stop, marked if there is one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(
        self, path: str | Path, *, title: str | None = None, target: float | None = None
    ) -> None:
        super().__init__(path)
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            raise MissingExtraError("matplotlib", "plot", "the budget plot") from None
        self.title = title
        self.target = target
        self._borders: list[float] = []  # seconds at which chunks start
        self._pyramid: PatchPyramid | None = None
        self._rows: list[np.ndarray] = []  # seconds, loss, then patches a scale
        self._open: list[np.ndarray] = []
        self._span = 1

    def add(self, chunk: GazedChunk) -> None:
        if self._pyramid is None:
            self._pyramid = chunk.gaze.pyramid
            path = chunk.source.path
            self.title = self.title or (Path(path).name if path else "video")
        if len(self._borders) <= _MAX_BORDERS:
            self._borders.append(chunk.source.timestamps[0])
        for facts in frame_facts(chunk):
            self._open.append(_row(facts))
            if len(self._open) == self._span:
                self._rows.append(np.mean(self._open, axis=0))
                self._open = []
            if len(self._rows) == 2 * _MAX_POINTS:
                self._rows = list(np.reshape(self._rows, (_MAX_POINTS, 2, -1)).mean(axis=1))
                self._span *= 2

    def borders(self) -> list[float]:
        """Seconds of the chunk borders that would be drawn: none where there are too many."""
        return self._borders[1:] if len(self._borders) <= _MAX_BORDERS else []

    def points(self) -> Points:
        """What would be drawn of what was shown up to now."""
        rows = np.array([*self._rows, *([np.mean(self._open, axis=0)] if self._open else [])])
        return Points(rows[:, 0], rows[:, 2:], rows[:, 1])

    def finish(self) -> None:
        with replacing(self.path) as temporary:
            self._draw(temporary)

    def _draw(self, path: Path) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        if self._pyramid is None:
            raise OutputError(f"{self.path}: nothing was gazed at, so there is nothing to plot")
        points, scales = self.points(), self._pyramid.scales
        figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
        patches, loss = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        step = float(np.median(np.diff(points.seconds))) if len(points.seconds) > 1 else 1.0
        edges = np.append(points.seconds, points.seconds[-1] + step)
        floor = np.zeros(len(points.seconds))
        for level, (scale, colour) in enumerate(
            zip(scales, scale_colours(len(scales)), strict=True)
        ):
            top = floor + points.kept[:, level]
            patches.stairs(
                top, edges, baseline=floor, fill=True, color=colour / 255, label=f"{scale} px"
            )
            floor = top
        patches.set_ylabel("patches a frame")
        patches.set_ylim(0, max(1.0, float(floor.max()) * 1.08))
        patches.yaxis.set_major_locator(MaxNLocator(integer=True))
        patches.legend(ncols=len(scales), frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
        patches.set_title(self.title or "", loc="left", fontsize=12, fontweight="bold")
        loss.stairs(points.loss, edges, color="#33363d", linewidth=1.3, baseline=None)
        highest = float(points.loss.max())
        if self.target is not None:
            highest = max(highest, self.target)
            loss.axhline(self.target, color="#c2410c", linewidth=0.9, linestyle=(0, (4, 3)))
            place = {"xy": (1, self.target), "xycoords": ("axes fraction", "data")}
            words = f"target {self.target:g}"
            loss.annotate(
                words,
                **place,
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#c2410c",
            )
        loss.set_ylim(0, max(1e-3, highest * 1.15))
        loss.yaxis.set_major_locator(MaxNLocator(4))
        loss.set_ylabel("canvas loss")
        loss.set_xlabel("seconds")
        loss.set_xlim(edges[0], edges[-1])
        for axes in (patches, loss):
            for border in self.borders():  # every chunk starts afresh, which shows
                axes.axvline(border, color="#00000022", linewidth=0.6, linestyle=":")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#00000014")
            axes.set_axisbelow(True)
        figure.savefig(path, format="png")


def _row(facts: FrameFacts) -> np.ndarray:
    return np.array([facts.seconds, np.nan if facts.loss is None else facts.loss, *facts.kept])
