"""Common style of all plots: colours and markers of selectors, labels, captions, saving."""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autogaze.errors import MissingExtraError
from autogaze.utils.files import check_output, replacing

INK, MUTED, GUIDE, WARNING = "#33363d", "#555a63", "#8a9099", "#c2201c"
"""Colours of text and totals, of captions, of reference lines, and of warnings."""

SERIES = ("#3b5bdb", "#0f766e", "#c2410c", "#9333ea", "#ca8a04", "#be185d", "#475569")
"""Colours of series of equal rank, in order."""


def require_matplotlib(purpose: str) -> None:
    """Raise `MissingExtraError` now, before long work, if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", purpose) from None


def check_plot(path: str | Path, option: str = "--plot") -> None:
    """Raise now, before long work, if a PNG cannot be drawn and written later.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the name does not end in .png, or the file cannot be written.
    """
    check_output(path, ".png", option)
    require_matplotlib(f"{option} {path}")


def make_panels(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Any, Any]:
    """A figure of `size` inches, and its (rows, columns) axes; `options` of `subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, path: str | Path) -> None:
    """Write a PNG atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def clean(axes: Any) -> None:
    """Remove the box and draw a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000014")
    axes.set_axisbelow(True)


def interval_bars(
    axes: Any,
    places: Sequence[float],
    intervals: Sequence[tuple[float | None, float | None]],
    colour: str,
) -> None:
    """A thin vertical bar at every place that has an interval."""
    for place, (low, high) in zip(places, intervals, strict=True):
        if low is not None:
            axes.vlines(place, low, high, color=colour, linewidth=1.0, alpha=0.6)


def caption(figure: Any, lines: Sequence[str]) -> None:
    """Write a caption below the axes."""
    width = round(figure.get_figwidth() * 16.8)
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.supxlabel("\n".join(wrapped), x=0.01, ha="left", fontsize=7, color=MUTED)


def legend_above(figure: Any, axes: Any) -> None:
    """Draw the legend of `axes` in one row above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8.5
    )


@dataclass(frozen=True)
class LineStyle:
    """Line style of one selector.

    Attributes:
        marker: of measured points; hollow for the controls.
        dashes: of its second line: lengths of dash and gap, in line widths.
    """

    colour: str
    marker: str = "o"
    hollow: bool = False
    dashes: tuple[float, float] = (4, 2)

    @property
    def face(self) -> str:
        """Colour inside a marker."""
        return "white" if self.hollow else self.colour


CONTROL_STYLES = {
    "random": LineStyle("#374151", "D", hollow=True, dashes=(1, 1.2)),
    "centre": LineStyle("#9aa1ab", "s", hollow=True, dashes=(7, 2.5)),
}


def selector_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each selector; controls are grey, with marks and dashes of their own."""
    colours = itertools.cycle(SERIES)
    return {name: CONTROL_STYLES.get(name) or LineStyle(next(colours)) for name in names}


@dataclass(frozen=True)
class LineEnd:
    """Name, colour and end point (data coordinates) of a line."""

    name: str
    colour: str
    x: float
    y: float


def label_ends(axes: Any, ends: Sequence[LineEnd]) -> None:
    """Write names right of the axes, near the ends of their lines.

    The limits of the axes must be final.
    """
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    ordered = sorted(ends, key=lambda end: end.y)
    levels = spread_out([end.y for end in ordered], 0.055 * (high - low), low, high)
    for end, level in zip(ordered, levels, strict=True):
        axes.annotate(
            end.name, (end.x, end.y), (right + 0.05 * (right - left), level),
            textcoords="data", annotation_clip=False, va="center", fontsize=8, color=end.colour,
            arrowprops=leader(end.colour),
        )  # fmt: skip


def leader(colour: str) -> dict[str, Any]:
    """`arrowprops` of the thin line to a point from the left of its label, outside the text."""
    return {
        "arrowstyle": "-",
        "relpos": (0, 0.5),
        "color": colour,
        "linewidth": 0.6,
        "alpha": 0.6,
        "shrinkA": 1,
        "shrinkB": 3,
    }


def spread_out(levels: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Ascending levels, moved until they stand `room` apart in [low, high].

    Where they cannot all stand there, they stand as far apart as they can.
    """
    room = min(room, (high - low) / max(1, len(levels)))
    placed: list[float] = []
    for level in levels:  # upwards
        placed.append(max(level, placed[-1] + room if placed else low + room / 2))
    ceiling = high - room / 2
    for index in reversed(range(len(placed))):  # and down again from the top
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - room
    return placed
