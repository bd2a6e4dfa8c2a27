"""The curves of a training: every metric over the steps, a loss beside its controls."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from autogaze.files import replacing

CONTROLS = {"shuffled": "tab:orange", "random": "tab:gray"}
"""Colours of the validation's controls: what the name of a control's loss begins with."""


def draw_curves(entries: Sequence[Mapping[str, float]], target: Path) -> bool:
    """Draw what was measured, where matplotlib is installed and there is anything.

    Args:
        entries: lines of `metrics.jsonl`.
        target: a PNG.

    Returns:
        Whether it was drawn.
    """
    drawn = panels(entries)
    if not drawn or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for place, (title, names) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            control = _control(name)
            axes.plot(
                *zip(*points, strict=True),
                marker="." if len(points) < 20 else "",
                color=CONTROLS.get(control, "tab:blue"),
                linestyle="--" if control else "-",  # both are seen where they coincide
                label=control or "own",
            )
        if len(names) > 1:
            values = [entry[name] for name in names for entry in entries if name in entry]
            if min(values) > 0 and max(values) > 2 * min(values):
                # Own and shuffled losses may lie close, random ones far above.
                axes.set_yscale("log")
            axes.legend(fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def panels(entries: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """Metrics that are drawn together, by their title: `val/loss` and those of its controls."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for entry in entries for name in entry):
        if name != "step":
            control = _control(name)
            title = name.replace(f"{control}_", "") if control else name
            found.setdefault(title, []).append(name)
    return found


def _control(name: str) -> str:
    """`shuffled` of `val/shuffled_loss@0.1`; nothing of other metrics."""
    group, _, rest = name.partition("/")
    first = rest.partition("_")[0]
    return first if group == "val" and first in CONTROLS else ""
