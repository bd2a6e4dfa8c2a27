"""Accuracies of what models answered, with 95 % intervals from resampled clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from answers.choosing import CHOOSERS, MULTI_SCALE
from answers.evaluation import Answered, Journal
from answers.questions import KINDS
from autogaze.errors import OutputError
from autogaze.evaluation.bootstrap import Estimate, estimate

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
        return sorted(
            names, key=lambda name: (known.index(name) if name in known else len(known), name)
        )

    @property
    def compared(self) -> list[str]:
        """Those with units="scales", each behind the same selector with units="finest"."""
        names = self.choosers
        pairs = [(name, f"{name}:scales") for name in names if f"{name}:scales" in names]
        return [name for pair in pairs for name in pair]


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
