"""What the plots of all benchmarks share: a figure, its caption, and how it is saved."""

import itertools
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autogaze.errors import MissingExtraError, OutputError
from autogaze.utils.files import check_writable, replacing

# Figures as a JSON file.


def check_json(path: str | Path | None) -> None:
    """Raise OutputError if the figures could not be written there later, or not as JSON."""
    if path is None:
        return
    if Path(path).suffix.lower() != ".json":
        raise OutputError(f"--json {path}: the name must end in .json")
    check_writable(Path(path))


def write_json(path: str | Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


SELECTOR_COLOURS = ("#3b5bdb", "#0f766e", "#c2410c", "#9333ea", "#ca8a04", "#be185d", "#475569")


@dataclass(frozen=True)
class LineStyle:
    """How one selector's lines look.

    Attributes:
        marker: of measured points; hollow ones for the controls.
        dashes: of its second line: points drawn, points left out.
    """

    colour: str
    marker: str = "o"
    hollow: bool = False
    dashes: tuple[float, float] = (4, 2)


CONTROL_STYLES = {
    "random": LineStyle("#374151", "D", hollow=True, dashes=(1, 1.2)),
    "centre": LineStyle("#9aa1ab", "s", hollow=True, dashes=(7, 2.5)),
}


def check_plot(path: str | Path) -> None:
    """Raise before long work: no matplotlib, no PNG, or a place where nothing can be written.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"--plot {path}: the name must end in .png")
    check_writable(path)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "the benchmark's plot") from None


def selector_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for every selector; the controls are grey, with marks and dashes of their own."""
    colours = itertools.cycle(SELECTOR_COLOURS)
    return {name: CONTROL_STYLES.get(name) or LineStyle(next(colours)) for name in names}


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends, in data coordinates, and what it is called."""

    name: str
    colour: str
    x: float
    y: float


def label_ends(axes: Any, ends: Sequence[LineEnd]) -> None:
    """Names right of the axes, level with the ends of their lines as far as there is room.

    To be called when the limits of the axes are final.
    """
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    ordered = sorted(ends, key=lambda end: end.y)
    room = 0.055 * (high - low)
    levels = spread_out([end.y for end in ordered], room, low, high)
    for end, level in zip(ordered, levels, strict=True):
        axes.annotate(
            end.name, (end.x, end.y), (right + 0.05 * (right - axes.get_xlim()[0]), level),
            textcoords="data", annotation_clip=False, va="center", fontsize=8, color=end.colour,
            arrowprops={
                "arrowstyle": "-", "color": end.colour, "linewidth": 0.6, "alpha": 0.6,
                "shrinkA": 1, "shrinkB": 3,
            },
        )  # fmt: skip


def spread_out(levels: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Ascending levels, moved up and then down until they stand `room` apart in [low, high].

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


def clean(axes: Any) -> None:
    """No box, a faint grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#00000014")
    axes.set_axisbelow(True)


def caption(figure: Any, lines: list[str]) -> None:
    """Small words under the axes: what was measured, on what, and how."""
    width = round(figure.get_figwidth() * 16.8)
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.supxlabel("\n".join(wrapped), x=0.01, ha="left", fontsize=7, color="#555a63")


def save(figure: Any, path: str | Path) -> None:
    """Write the PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
