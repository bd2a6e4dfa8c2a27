"""A report of what models answered: JSON, Markdown, and a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from answers.choosing import CHOOSERS
from answers.questions import KINDS
from answers.summary import ALL, Run
from answers.tables import markdown
from autogaze.rendering.plot_style import (
    GUIDE,
    INK,
    LineEnd,
    LineStyle,
    caption,
    clean,
    interval_bars,
    label_ends,
    make_panels,
    save,
    selector_styles,
)
from autogaze.utils.files import replacing


def write_report(runs: Sequence[Run], out: Path) -> None:
    """Write `out`.json, a list of models, and .md and .png.

    The plot shows the first model by kind of question, then the others, all kinds together.
    """
    with replacing(f"{out}.json") as temporary:
        temporary.write_text(json.dumps([_rounded(asdict(run)) for run in runs]) + "\n")
    with replacing(f"{out}.md") as temporary:
        temporary.write_text(markdown(runs))
    save(plot(runs), f"{out}.png")


def _rounded(value: Any) -> Any:
    """Numbers with four decimals, at any depth."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def plot(runs: Sequence[Run]) -> Any:
    """Accuracy over the share of kept units: the first run by kind, then every run, all kinds."""
    main, columns = runs[0], 3
    finest = [name for name in main.choosers if name in CHOOSERS]
    panels = [(main, kind, finest, f"{kind}: trained {main.name}") for kind in (ALL, *KINDS)]
    if main.compared:
        panels.append(
            (main, ALL, main.compared, f"{ALL}, units of all scales: trained {main.name}")
        )
    panels += [(run, ALL, run.choosers, f"{ALL}: trained {run.name}") for run in runs[1:]]
    rows = -(-len(panels) // columns)
    figure, axes = make_panels(rows, columns, (13.5, 3.6 * rows))
    asked = [name.partition(":")[0] for run in runs for name in run.choosers]
    styles = selector_styles(list(dict.fromkeys([*finest, *asked])))
    styles["uniform"] = LineStyle("#6b7280", "^", hollow=True, dashes=(3, 1.5))
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.axis("off")
            continue
        run, kind, names, title = panels[place]
        shown = [name for name in names if not name.endswith(":union")]
        _panel(axis, run, kind, shown, styles)
        axis.set_title(title, fontsize=10, color=INK, loc="left")
        if place % columns == 0:
            axis.set_ylabel("right answers, %", fontsize=8.5)
        axis.set_xlabel("units kept, % of all", fontsize=8.5)
    low, high = (bound(row.clips for run in runs for row in run.rows) for bound in (min, max))
    clips = f"{high}" if low == high else f"{low} to {high}"
    caption(
        figure,
        [
            f"{clips} drawn clips that were not trained on, one question of each kind; four options, the "
            "likeliest word is the answer. Bars: 95 % intervals from resampled clips. Grey lines: all units "
            "(dashed), no video (dotted). Dotted curves: units of all scales.",
        ],
    )
    return figure


def _panel(
    axis: Any, run: Run, kind: str, names: Sequence[str], styles: dict[str, LineStyle]
) -> None:
    ends = []
    for name in names:
        rows, style = run.of(name), styles[name.partition(":")[0]]
        shares = [100 * row.share for row in rows]
        values = [row.accuracy[kind] for row in rows]
        means = [100 * value.mean for value in values]
        line, marker, face = "--" if style.hollow else "-", style.marker, style.face
        if ":" in name:
            line, marker, face = ":", "s", "white"
        axis.plot(
            shares, means, line, color=style.colour, marker=marker, markersize=4,
            markerfacecolor=face, linewidth=1.3,
        )  # fmt: skip
        bars = [
            (None, None) if v.low is None or v.high is None else (100 * v.low, 100 * v.high)
            for v in values
        ]
        interval_bars(axis, shares, bars, style.colour)
        ends.append(LineEnd(name, style.colour, shares[-1], means[-1]))
    for name, dashes in (("dense", "--"), ("blind", ":")):
        for row in run.of(name):
            axis.axhline(100 * row.accuracy[kind].mean, color=GUIDE, linestyle=dashes, linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set_xlim(1.05, 60)
    axis.set_ylim(10, 104)
    clean(axis)
    label_ends(axis, ends)
