"""Accuracies with 95 % intervals from resampled clips: JSON, Markdown, and a plot."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from answers.choosing import CHOOSERS, MULTI_SCALE
from answers.evaluation import Answered, Journal
from answers.questions import KINDS
from autogaze.errors import OutputError
from autogaze.evaluation.bootstrap import Estimate, estimate
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

ALL = "all"
"""All kinds together, each clip's mean over its questions."""
DENSE_UNITS = 980


@dataclass(frozen=True)
class Row:
    """One chooser at one ratio.

    Attributes:
        chooser, ratio: as in `Answered`.
        clips: answered.
        share: of units that were kept, mean over clips.
        tokens: of video in the LLM's input, mean over clips.
        accuracy: kind of question, or `ALL` -> mean and interval.
        above_random: `ALL` minus that of random units at the same ratio, on the same clips; None
            where there is none.
        above_finest: of a chooser such as "greedy:scales", `ALL` minus that of "greedy", likewise.
    """

    chooser: str
    ratio: float
    clips: int
    share: float
    tokens: float
    accuracy: dict[str, Estimate]
    above_random: Estimate | None
    above_finest: Estimate | None


@dataclass(frozen=True)
class Run:
    """What one model answered."""

    name: str
    rows: tuple[Row, ...]

    def of(self, chooser: str) -> list[Row]:
        """The rows of a chooser, by ratio."""
        return sorted(
            (row for row in self.rows if row.chooser == chooser), key=lambda row: row.ratio
        )

    @property
    def choosers(self) -> list[str]:
        """All but dense and blind, in the order of `CHOOSERS` and `MULTI_SCALE`."""
        known = [*CHOOSERS, *MULTI_SCALE]
        names = {row.chooser for row in self.rows if row.chooser not in ("dense", "blind")}
        return sorted(names, key=known.index)

    @property
    def compared(self) -> list[str]:
        """Those with units="scales", and the same selectors with units="finest"."""
        names = self.choosers
        return [n for n in names if n.endswith(":scales") or f"{n}:scales" in names]


def read_runs(runs: Sequence[str]) -> list[Run]:
    """Summaries of NAME=FILE, files of answers.

    Raises:
        OutputError: another form, or no answers in a file.
    """
    pairs = [run.partition("=")[::2] for run in runs]
    for name, path in pairs:
        if not name or not os.path.isfile(path) or not os.path.getsize(path):
            raise OutputError(
                f"expected NAME=FILE of answers, got {name}={path}; evaluate a model first"
            )
    return [Run(name, summarise(Journal(Path(path)).answers)) for name, path in pairs]


def summarise(answers: Sequence[Answered]) -> tuple[Row, ...]:
    """Means and intervals of every chooser and ratio."""
    groups: dict[tuple[str, float], dict[int, Answered]] = {}
    for answer in answers:
        groups.setdefault((answer.chooser, answer.ratio), {})[answer.clip] = answer
    rows = []
    for (chooser, ratio), found in groups.items():
        clips = torch.tensor(sorted(found))
        rights = {
            kind: torch.tensor([float(found[clip].right[kind]) for clip in clips.tolist()])
            for kind in KINDS
        }
        rights[ALL] = torch.stack(list(rights.values())).mean(0)
        rows.append(
            Row(
                chooser,
                ratio,
                len(clips),
                sum(a.units for a in found.values()) / len(found) / DENSE_UNITS,
                sum(a.tokens for a in found.values()) / len(found),
                {kind: estimate(right, clips) for kind, right in rights.items()},
                _above(found, groups.get(("random", ratio))),
                _above(found, groups.get((chooser.partition(":")[0], ratio))),
            )
        )
    return tuple(rows)


def _above(found: dict[int, Answered], other: dict[int, Answered] | None) -> Estimate | None:
    """How much better all kinds together are; None without other answers about the same clips."""
    if other is None or other is found or other.keys() != found.keys():
        return None
    clips = sorted(found)
    gains = [_mean(found[clip]) - _mean(other[clip]) for clip in clips]
    return estimate(torch.tensor(gains), torch.tensor(clips))


def _mean(answer: Answered) -> float:
    return sum(answer.right.values()) / len(answer.right)


def write_report(runs: Sequence[Run], out: Path) -> None:
    """Write `out`.json, a list of models, and .md and .png.

    The plot shows the first model by kind of question, then the others, all kinds together.
    """
    with replacing(f"{out}.json") as temporary:
        temporary.write_text(json.dumps([_rounded(asdict(run)) for run in runs]) + "\n")
    with replacing(f"{out}.md") as temporary:
        temporary.write_text("\n".join(line for run in runs for line in markdown(run)) + "\n")
    save(plot(runs), f"{out}.png")


def _rounded(value: Any) -> Any:
    """Numbers with four decimals, at any depth."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def markdown(run: Run) -> list[str]:
    """A table of all kinds together, and one per kind."""
    lines = [f"## Model: {run.name}", ""]
    ratios = sorted({row.ratio for name in run.choosers for row in run.of(name)})
    for kind in (ALL, *KINDS):
        fixed = [
            f"{name} {_percent(row.accuracy[kind])}"
            for name in ("dense", "blind")
            for row in run.of(name)
        ]
        lines += [f"**{kind}**: {', '.join(fixed)}", ""]
        heads = [f"{ratio:.0%}" for ratio in ratios]
        lines += [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for name in run.choosers:
            rows = {row.ratio: row for row in run.of(name)}
            cells = [_cell(rows.get(ratio), kind) for ratio in ratios]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _cell(row: Row | None, kind: str) -> str:
    if row is None:
        return ""
    kept = f" [{row.share:.0%}]" if abs(row.share - row.ratio) > 0.02 and kind == ALL else ""
    return _percent(row.accuracy[kind]) + kept


def _percent(value: Estimate) -> str:
    return f"{value.mean:.0%}{value.brackets(lambda end: f'{100 * end:.0f}')}"


def plot(runs: Sequence[Run]) -> Any:
    """Accuracy over the share of kept units: the first run by kind, then every run, all kinds."""
    main, columns = runs[0], 3
    finest = [name for name in main.choosers if ":" not in name]
    panels = [(main, kind, finest, f"{kind}: trained {main.name}") for kind in (ALL, *KINDS)]
    if main.compared:
        panels.append(
            (main, ALL, main.compared, f"{ALL}, units of all scales: trained {main.name}")
        )
    panels += [(run, ALL, run.choosers, f"{ALL}: trained {run.name}") for run in runs[1:]]
    rows = -(-len(panels) // columns)
    figure, axes = make_panels(rows, columns, (13.5, 3.6 * rows))
    styles = selector_styles(finest)
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
    axis.set_xlim(1.2, 60)
    axis.set_ylim(10, 104)
    clean(axis)
    label_ends(axis, ends)
