"""What the plots of all benchmarks share: a figure, its caption, and how it is saved."""

import textwrap
from pathlib import Path
from typing import Any

from autogaze.errors import MissingExtraError, OutputError
from autogaze.files import check_writable, replacing

SELECTOR_COLOURS = ("#3b5bdb", "#0f766e", "#c2410c", "#9333ea", "#ca8a04", "#be185d", "#475569")
CONTROL_COLOURS = {"random": "#8a9099", "centre": "#b4b9c1"}


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


def selector_colours(names: list[str]) -> dict[str, str]:
    """A colour for every selector; the controls are grey."""
    others = iter(SELECTOR_COLOURS * (1 + len(names) // len(SELECTOR_COLOURS)))
    return {name: CONTROL_COLOURS.get(name) or next(others) for name in names}


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
