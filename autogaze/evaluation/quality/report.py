"""From losses on clips to what is said about selectors: curves, differences, shares needed."""

from dataclasses import asdict, dataclass
from typing import Any

from autogaze.evaluation.fidelity import Estimate
from autogaze.evaluation.quality.bootstrap import Resamples, loss_at, share_reaching
from autogaze.evaluation.quality.contenders import Serving
from autogaze.evaluation.quality.measure import Measurements, Row
from autogaze.evaluation.quality.stops import StopReport

BASELINE, BASELINE_SHARE = "random", 0.2
"""Whose loss, at what share, the other selectors have to reach with less."""


@dataclass(frozen=True)
class Point:
    """One selector at one budget.

    Attributes:
        ratio: cap on every frame's share of all patches.
        share: of all patches, really taken.
        loss: mean over clips.
        difference: to the reference's loss on the same clips at the same budget.
    """

    ratio: float
    share: float
    loss: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Curve:
    """One selector under one judge, on one group of clips.

    Attributes:
        needed: share with which it reaches what `BASELINE` leaves at `BASELINE_SHARE`: 0
            where its smallest budget does, infinite where none does. None where the
            baseline was not measured around that share.
    """

    judge: str
    group: str
    row: str
    points: tuple[Point, ...]
    needed: Estimate | None


@dataclass(frozen=True)
class Setting:
    """How a run was made, for whoever reads its figures.

    Attributes:
        reference: the row with which the others are compared.
        seed: of clips, gazes and draws.
        every: networks judged every so-many-th frame.
        place: the device.
        weights: (name, folder or hub id) of learned weights.
        video_mae: checkpoint of that judge, if it was asked.
    """

    reference: str
    seed: int
    every: int
    place: str
    weights: tuple[tuple[str, str], ...]
    video_mae: str | None


@dataclass(frozen=True, eq=False)
class QualityReport:
    """All that one run found.

    Attributes:
        measured: the losses that everything else follows from.
        groups: all clips, and every kind.
        curves: of every judge, group and row, in that order.
        stops: predicted against actual losses, where thresholds were asked for.
    """

    setting: Setting
    measured: Measurements
    groups: tuple[str, ...]
    curves: tuple[Curve, ...]
    stops: StopReport | None = None

    def of(self, judge: str, group: str) -> tuple[Curve, ...]:
        """The curves of one panel, in the order of rows."""
        return tuple(c for c in self.curves if (c.judge, c.group) == (judge, group))

    @property
    def about(self) -> str:
        """What was judged, in a line."""
        clips = self.measured.clips
        kinds = dict.fromkeys(clip.kind for clip in clips)
        parts = []
        for kind in kinds:
            sources = [clip.source for clip in clips if clip.kind == kind]
            parts.append(f"{len(sources)} {kind} of {len(set(sources))} sources")
        return f"{len(clips)} clips: {', '.join(parts)}"

    @property
    def has_habit(self) -> bool:
        """Whether the habit was compared."""
        return any(row.serving is Serving.HABIT for row in self.measured.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        judges = zip(self.measured.judges, self.measured.units, strict=True)
        part = (
            f" Networks judged one frame of {self.setting.every}." if self.setting.every > 1 else ""
        )
        habit = (
            " Habit: in every frame, the patches that the selector took most often in that frame of "
            "clips of the same kind and other sources."
            if self.has_habit
            else ""
        )
        return (
            f"{self.about}. In 'all' every kind counts the same.",
            "Losses: " + "; ".join(f"{judge}: {unit}" for judge, unit in judges) + "." + part,
            "Intervals: 95 %, from resampling whole videos and photographs; in brackets half their "
            "width, in units of the last digit. Marks: better (+) or worse (-) than "
            f"{self.setting.reference} on the same clips, where the interval of the difference "
            "leaves out zero.",
            f"Needed: share with the loss of {BASELINE} at {100 * BASELINE_SHARE:g} %, between "
            "budgets by interpolation. Shuffled: every clip is served the selector's own gaze of "
            "another one of its kind." + habit,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, with the loss of every clip."""
        m = self.measured
        return {
            **asdict(self.setting),
            "notes": list(self.notes),
            "ratios": list(m.ratios),
            "judges": [{"name": n, "unit": u} for n, u in zip(m.judges, m.units, strict=True)],
            "rows": [row.name for row in m.rows],
            "clips": [{"name": c.name, "kind": c.kind, "source": c.source} for c in m.clips],
            "losses": m.losses.tolist(),
            "shares": m.shares.tolist(),
            "curves": [asdict(curve) for curve in self.curves],
            "stops": None if self.stops is None else asdict(self.stops),
        }


def make_report(
    measured: Measurements, setting: Setting, stops: StopReport | None = None
) -> QualityReport:
    """Means, intervals and differences of all rows, by judge and group."""
    resamples = Resamples.draw(measured.clips, setting.seed)
    curves = [
        curve
        for judge in range(len(measured.judges))
        for group in resamples.groups
        for curve in _curves(measured, resamples, judge, group, setting.reference)
    ]
    return QualityReport(setting, measured, resamples.groups, tuple(curves), stops)


def _curves(
    measured: Measurements, resamples: Resamples, judge: int, group: str, reference: str
) -> list[Curve]:
    losses = resamples.means(measured.losses[judge], group)  # (rows, budgets, R)
    shares = resamples.means(measured.shares, group)[..., 0]  # a matter of the cap, not of luck
    base, other = (_row(measured.rows, name) for name in (BASELINE, reference))
    target = loss_at(BASELINE_SHARE, shares[base], losses[base])
    curves = []
    for r, row in enumerate(measured.rows):
        points = tuple(
            Point(
                ratio,
                float(shares[r, b]),
                resamples.interval(losses[r, b], group),
                resamples.interval(losses[r, b] - losses[other, b], group),
            )
            for b, ratio in enumerate(measured.ratios)
        )
        needed = None
        if target is not None:
            needed = resamples.interval(share_reaching(target, shares[r], losses[r]), group)
        curves.append(Curve(measured.judges[judge], group, row.name, points, needed))
    return curves


def _row(rows: tuple[Row, ...], name: str) -> int:
    return next(number for number, row in enumerate(rows) if row.name == name)
