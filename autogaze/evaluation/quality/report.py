"""From losses on clips to figures of selectors: curves, differences, shares needed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autogaze.evaluation.bootstrap import Estimate, Resamples, loss_at, share_reaching
from autogaze.evaluation.quality.clips import ClipFiles, plan_clips
from autogaze.evaluation.quality.measure import Measurements, measure, num_steps
from autogaze.evaluation.quality.metrics import load_metrics
from autogaze.evaluation.quality.selectors import Variant, load_selectors, shuffled
from autogaze.evaluation.quality.thresholds import ThresholdReport, can_stop, measure_thresholds
from autogaze.evaluation.timing import hardware
from autogaze.selectors.registry import LEARNED
from autogaze.tasks import CANVAS
from autogaze.utils.device import DeviceOptions
from autogaze.utils.progress import ProgressBar
from autogaze.video.decoders import DecoderName

BASELINE, BASELINE_SHARE = "random", 0.2
"""Whose loss, at what share, the other selectors have to reach with less."""


@dataclass(frozen=True)
class Point:
    """One selector at one budget.

    Attributes:
        ratio: cap on every frame's share of all patches.
        share: of all patches, really taken.
        loss: mean over clips.
        difference: from the reference's loss on the same clips at the same budget.
    """

    ratio: float
    share: float
    loss: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Curve:
    """One selector under one metric, on one group of clips.

    Attributes:
        needed: share with which it reaches the loss of `BASELINE` at `BASELINE_SHARE`: 0
            where its smallest budget does, infinite where none does. None where the
            baseline was not measured around that share.
    """

    metric: str
    group: str
    row: str
    points: tuple[Point, ...]
    needed: Estimate | None


@dataclass(frozen=True)
class Setting:
    """How a run was made.

    Attributes:
        reference: the row with which the others are compared.
        seed: of clips, gazes and draws.
        every: networks measured every so-many-th frame.
        device: and precision of selectors that have a model; metrics are float32.
        weights: (name, folder or hub id) of learned weights.
        video_mae: checkpoint of that metric, if it was measured.
        decoder: of videos, as it was asked for.
    """

    hardware: str
    reference: str
    seed: int
    every: int
    device: str
    weights: tuple[tuple[str, str], ...]
    video_mae: str | None
    decoder: DecoderName = "auto"


@dataclass(frozen=True, eq=False)
class QualityReport:
    """All that one run found.

    Attributes:
        measured: the losses from which everything else follows.
        groups: all clips, and every kind.
        curves: of every metric, group and row, in that order.
        thresholds: predicted against actual losses, where thresholds were asked for.
    """

    setting: Setting
    measured: Measurements
    groups: tuple[str, ...]
    curves: tuple[Curve, ...]
    thresholds: ThresholdReport | None = None

    def of(self, metric: str, group: str) -> tuple[Curve, ...]:
        """The curves of one panel, in the order of rows."""
        return tuple(c for c in self.curves if (c.metric, c.group) == (metric, group))

    @property
    def about(self) -> str:
        """The clips, in a line."""
        clips = self.measured.clips
        parts = []
        for kind in dict.fromkeys(clip.kind for clip in clips):
            sources = [clip.source for clip in clips if clip.kind == kind]
            parts.append(f"{len(sources)} {kind} of {len(set(sources))} sources")
        return f"{len(clips)} clips: {', '.join(parts)}"

    @property
    def units(self) -> str:
        """What the metrics' losses are."""
        pairs = zip(self.measured.metrics, self.measured.units, strict=True)
        every = self.setting.every
        part = f" Networks measured one frame of {every}." if every > 1 else ""
        return "Losses: " + "; ".join(f"{name}: {unit}" for name, unit in pairs) + "." + part

    @property
    def has_prior(self) -> bool:
        """Whether a content-blind prior was compared."""
        return any(row.variant is Variant.PRIOR for row in self.measured.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides the figures."""
        prior = (
            " Prior: content-blind, in every frame the patches that the selector took most often in "
            "that frame of clips of the same kind and other sources."
            if self.has_prior
            else ""
        )
        return (
            f"{self.about}. In 'all' every kind counts the same.",
            f"Device, and precision of selectors with a model: {self.setting.device}. Metrics are "
            "measured in float32.",
            self.units,
            "Intervals: 95 %, from resampling whole videos and photographs; in brackets half their "
            "width, in units of the last digit. Marks: better (+) or worse (-) than "
            f"{self.setting.reference} on the same clips, where the interval of the difference "
            "leaves out zero.",
            f"Needed: share with the loss of {BASELINE} at {100 * BASELINE_SHARE:g} %, between "
            "budgets by interpolation. Shuffled: every clip is measured on the selector's own gaze "
            "at another one of its kind." + prior,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, with the loss of every clip."""
        m = self.measured
        return {
            **asdict(self.setting),
            "notes": list(self.notes),
            "ratios": list(m.ratios),
            "metrics": [{"name": n, "unit": u} for n, u in zip(m.metrics, m.units, strict=True)],
            "rows": [row.name for row in m.rows],
            "clips": [{"name": c.name, "kind": c.kind, "source": c.source} for c in m.clips],
            "losses": m.losses.tolist(),
            "shares": m.shares.tolist(),
            "curves": [asdict(curve) for curve in self.curves],
            "thresholds": None if self.thresholds is None else asdict(self.thresholds),
        }


def bench_quality(
    files: ClipFiles,
    selectors: Sequence[str],
    weights: dict[str, str],
    ratios: Sequence[float],
    *,
    clips: int,
    reference: str,
    video_mae: str | None = None,
    features: bool = True,
    thresholds: Sequence[float] = (),
    threshold_metric: str = CANVAS,
    every: int = 1,
    seed: int = 0,
    batch: int = 4,
    decoder: DecoderName = "auto",
    device_options: DeviceOptions,
) -> QualityReport:
    """Measure everything.

    Args:
        selectors: names of selectors; the controls are added.
        weights: name in figures -> folder or hub id of learned weights.
        ratios: budgets.
        clips: of a kind.
        reference: the selector with which the others are compared.
        video_mae: a VideoMAE's checkpoint, to be a metric too.
        features: whether features are compared too.
        thresholds: at which selectors stop early, in the unit of `threshold_metric`.
        every: networks measure every so-many-th frame.
        batch: clips at a time.
        decoder: of videos, see `autogaze.video.Video`.
        device_options: where all runs, and the precision of selectors that have a model. Metrics are
            float32 whatever that is, so that figures can be compared.
    """
    compared = load_selectors(selectors, weights, device_options)
    pyramid = compared[0].selector.pyramid
    planned = plan_clips(
        files,
        per_kind=clips,
        side=pyramid.side,
        seed=seed,
        decoder=decoder,
        device=device_options.device,
    )
    shuffled(planned)  # raises where a kind is too small
    metrics = load_metrics(video_mae, features, pyramid, device_options.device)
    stopping = [one for one in compared if can_stop(one.selector, threshold_metric)]
    steps = num_steps(compared, len(planned), batch)
    if thresholds:
        steps += -(-len(planned) // batch) * len(stopping)
    with ProgressBar(steps) as bar:
        measured = measure(
            planned, compared, metrics, ratios,
            batch=batch, device=device_options.device, every=every, seed=seed, step=bar.begin,
        )  # fmt: skip
        stopped = None
        if thresholds:
            metric = next(one for one in metrics if one.name == threshold_metric)
            stopped = measure_thresholds(
                planned, stopping, metric, thresholds,
                batch=batch, device=device_options.device, seed=seed, step=bar.begin,
            )  # fmt: skip
    shipped = ((LEARNED, "of the package"),) if LEARNED in selectors else ()
    setting = Setting(
        hardware=hardware(device_options.device),
        reference=reference,
        seed=seed,
        every=every,
        device=str(device_options),
        weights=(*weights.items(), *shipped),
        video_mae=video_mae,
        decoder=decoder,
    )
    return make_report(measured, setting, stopped)


def make_report(
    measured: Measurements, setting: Setting, thresholds: ThresholdReport | None = None
) -> QualityReport:
    """Means, intervals and differences of all rows, by metric and group."""
    clips = measured.clips
    resamples = Resamples.draw(
        [clip.source for clip in clips], [clip.kind for clip in clips], setting.seed
    )
    curves = [
        curve
        for metric in range(len(measured.metrics))
        for group in resamples.groups
        for curve in _curves(measured, resamples, metric, group, setting.reference)
    ]
    return QualityReport(setting, measured, resamples.groups, tuple(curves), thresholds)


def _curves(
    measured: Measurements, resamples: Resamples, metric: int, group: str, reference: str
) -> list[Curve]:
    losses = resamples.means(measured.losses[metric], group)  # (rows, budgets, R)
    shares = resamples.means(measured.shares, group)[..., 0]  # set by the cap, not by luck
    names = [row.name for row in measured.rows]
    base, other = names.index(BASELINE), names.index(reference)
    target = loss_at(BASELINE_SHARE, shares[base], losses[base])
    curves = []
    for r, name in enumerate(names):
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
        curves.append(Curve(measured.metrics[metric], group, name, points, needed))
    return curves
