"""The tables of a report, as in docs/answers.md."""

from collections.abc import Iterator, Sequence

from answers.choosing import CHOOSERS
from answers.questions import KINDS
from answers.summary import ALL, Row, Run
from autogaze.evaluation.bootstrap import Estimate

RATIO = 0.1
"""At which the tables by kind are."""
TRAINED_ALIKE = ("greedy", "change", "random", "uniform")
"""Choosers that every model is asked with."""


def markdown(runs: Sequence[Run]) -> str:
    """All tables, each with its title."""
    return "\n".join(f"{title}\n\n{table}\n" for title, table in tables(runs))


def tables(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Titles and tables: the first model's, then all models beside each other."""
    main = runs[0]
    finest = [name for name in main.choosers if name in CHOOSERS]
    yield f"Model `{main.name}`, all kinds", by_ratio([main], finest)
    names = ("dense", "blind", *finest)
    yield f"Model `{main.name}` at {_share(RATIO)}", by_kind([main], names, "random")
    if len(runs) > 1:
        yield "All models, all kinds", by_ratio(runs, TRAINED_ALIKE)
        yield "All models, counts alone", by_ratio(runs, ("greedy", "random"), "count")
    if any(run.compared for run in runs):
        compared = list(dict.fromkeys(name for run in runs for name in run.compared))
        runs = [run for run in runs if run.compared]
        yield "Units of all scales, all kinds", by_ratio(runs, compared)
        yield f"Units of all scales at {_share(RATIO)}", by_kind(runs, compared, "finest")


def by_ratio(runs: Sequence[Run], choosers: Sequence[str], kind: str = ALL) -> str:
    """A row per model and chooser, a column per ratio."""
    ratios = sorted({row.ratio for run in runs for name in choosers for row in run.of(name)})
    head = ["trained with", "chosen by", *map(_share, ratios), "all units"]
    body = []
    for run in runs:
        whole = "".join(_percent(row.accuracy[kind]) for row in run.of("dense"))
        for name in choosers:
            rows = {row.ratio: row for row in run.of(name)}
            cells = [_cell(rows[ratio], kind) if ratio in rows else "" for ratio in ratios]
            if rows:
                body.append([f"`{run.name}`", f"`{name}`", *cells, whole])
    return _table(head, body, drop_first=len(runs) == 1)


def by_kind(runs: Sequence[Run], choosers: Sequence[str], base: str) -> str:
    """A row per model and chooser at `RATIO`, a column per kind.

    Args:
        base: "random", or "finest" scale of the same selector: what the last column compares with, on
            the same clips.
    """
    head = ["trained with", "chosen by", "tokens", *(f"`{kind}`" for kind in KINDS), "all"]
    body = []
    for run in runs:
        for name in choosers:
            for row in run.of(name):
                if name not in ("dense", "blind") and row.ratio != RATIO:
                    continue
                kinds = [_percent(row.accuracy[kind]) for kind in (*KINDS, ALL)]
                gain = row.above_random if base == "random" else row.above_finest
                cells = [
                    f"`{run.name}`",
                    f"`{name}`",
                    f"{round(row.tokens, 4):.0f}",
                    *kinds,
                    _points(gain),
                ]
                body.append(cells)
    return _table([*head, f"all, minus {base}"], body, drop_first=len(runs) == 1)


def _table(head: Sequence[str], body: Sequence[Sequence[str]], *, drop_first: bool) -> str:
    """Markdown, without the first column where all its cells are the same."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row[drop_first:])} |" for row in rows)


def _cell(row: Row, kind: str) -> str:
    """Accuracy; with all kinds the share of kept units in brackets, where it is not the ratio."""
    is_other = kind == ALL and abs(row.share - row.ratio) > 0.02
    return _percent(row.accuracy[kind]) + (f" [{_hundred(row.share):.0f}]" if is_other else "")


def _percent(value: Estimate) -> str:
    return f"{_hundred(value.mean):.0f}{value.brackets(lambda end: f'{_hundred(end):.0f}')}"


def _points(value: Estimate | None) -> str:
    if value is None:
        return ""
    shown = f"{_hundred(value.mean):+.0f}{value.brackets(lambda end: f'{_hundred(end):+.0f}')}"
    return shown.replace("-", "−")


def _share(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _hundred(share: float) -> float:
    """In per cent; of the four decimals that the JSON has, so that its tables are these."""
    return 100 * round(share, 4)
