"""Predicted against actual loss: what is left where selectors stop by themselves.

Weights with a loss head gaze at a frame until the loss that they predict is at most the
threshold. Whether it really is, the judge that they were trained with says. The control is
a selector that measures this judge's loss itself (`greedy`, with the canvas): it leaves less
than was asked for too, since patches are whole and every frame takes one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autogaze.clips import Clips
from autogaze.errors import SelectorError
from autogaze.evaluation.fidelity import Estimate
from autogaze.evaluation.progress import Step, silent
from autogaze.evaluation.quality.bootstrap import Resamples
from autogaze.evaluation.quality.clips import QualityClip, read_batch
from autogaze.evaluation.quality.contenders import Contender
from autogaze.evaluation.quality.metrics import Judge, Shown, Trial
from autogaze.models.autogaze.streaming import Generation
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned

BINS = 10


@dataclass(frozen=True)
class StopPoint:
    """A selector at one threshold, on one group of clips; means over frames.

    Attributes:
        name: of the weights, or of the selector.
        share: of all patches, taken until the stop.
        predicted: the loss predicted, or measured by the selector, where a frame stopped.
        actual: the loss that the judge finds there.
        excess: actual / threshold - 1.
        at_first: share of frames that stopped at the one patch that every frame takes:
            their loss may lie far below the threshold.
        at_last: share of frames that took every patch: none met the threshold.
    """

    name: str
    threshold: float
    group: str
    share: float
    predicted: float
    actual: Estimate
    excess: Estimate
    at_first: float
    at_last: float


@dataclass(frozen=True)
class StopBin:
    """Frames, of all thresholds, whose predicted losses are neighbours; means over them."""

    name: str
    kind: str
    frames: int
    predicted: float
    actual: float


@dataclass(frozen=True)
class StopReport:
    """How well losses were predicted.

    Attributes:
        judge, unit: who found the actual losses, and in what.
    """

    judge: str
    unit: str
    points: tuple[StopPoint, ...]
    bins: tuple[StopBin, ...]


@dataclass(frozen=True, eq=False)
class Stops:
    """Where frames stopped, by a selector at one threshold; all arrays (N, T)."""

    predicted: Float[np.ndarray, "N T"]
    actual: Float[np.ndarray, "N T"]
    shares: Float[np.ndarray, "N T"]
    at_first: Bool[np.ndarray, "N T"]
    at_last: Bool[np.ndarray, "N T"]


@torch.inference_mode()
def measure_stops(
    clips: Sequence[QualityClip],
    contenders: Sequence[Contender],
    judge: Judge,
    thresholds: Sequence[float],
    *,
    batch: int,
    device: torch.device,
    seed: int = 0,
    step: Step = silent,
) -> StopReport:
    """Let selectors stop at every threshold, and judge what they took.

    Args:
        contenders: learned ones, and those that measure the judge's loss (`can_stop`).
        judge: the one that weights were trained with.
    """
    parts: dict[tuple[int, int], list[Stops]] = {}
    for start in range(0, len(clips), batch):
        seen = read_batch(clips[start : start + batch])
        shown = Shown.of(seen.unit().to(device))
        for c, contender in enumerate(contenders):
            step(f"{contender.name} stops")
            for b, threshold in enumerate(thresholds):
                found = _stop(contender.selector, seen, shown, judge, threshold)
                parts.setdefault((c, b), []).append(found)
    resamples = Resamples.draw(clips, seed)
    points, bins = [], []
    for c, contender in enumerate(contenders):
        stops = [_joined(parts[c, b]) for b in range(len(thresholds))]
        for threshold, found in zip(thresholds, stops, strict=True):
            points += _points(contender.name, threshold, found, resamples)
        for kind, members in resamples.kinds.items():
            bins += _bins(contender.name, kind, stops, members)
    return StopReport(judge.name, judge.unit, tuple(points), tuple(bins))


def can_stop(selector: Selector, judge: str) -> bool:
    """Whether a selector predicts a loss, or measures that of this judge."""
    return isinstance(selector, Learned) or selector.metric == judge


def _stop(
    selector: Selector,
    clips: Clips,
    shown: Shown,
    judge: Judge,
    threshold: float,
) -> Stops:
    if isinstance(selector, Learned):
        video = selector.seen(clips)
        generation = selector.model.generate(video, threshold=threshold)
        scores = selector.model.score(video, generation)
        gaze = generation.to_gaze().to("cpu")
        predicted = _last_predicted(generation, scores.predicted_losses)
    else:
        gaze = selector.select(clips, loss=threshold).to("cpu")
        if gaze.losses is None:
            raise SelectorError(f"{selector.name} stops by loss, but says none")
        predicted = gaze.losses
    lengths = gaze.lengths.numpy()
    vocabulary = gaze.pyramid.num_patches
    return Stops(
        predicted.double().cpu().numpy(),
        judge.losses(Trial(shown, gaze)).double().cpu().numpy(),
        lengths / vocabulary,
        lengths == 1,
        lengths == vocabulary,
    )


def _last_predicted(
    generation: Generation, predicted: Float[Tensor, "B slots"]
) -> Float[Tensor, "B T"]:
    """The loss predicted after the last patch kept in every frame."""
    columns, first = [], 0
    for slots in generation.frames:
        width = slots.kept.shape[1]
        place = torch.arange(width, device=slots.kept.device)
        last = torch.where(slots.kept, place, -1).amax(1)
        columns.append(predicted[:, first : first + width].gather(1, last[:, None])[:, 0])
        first += width
    return torch.stack(columns, dim=1)


def _joined(parts: Sequence[Stops]) -> Stops:
    names = ("predicted", "actual", "shares", "at_first", "at_last")
    return Stops(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _points(name: str, threshold: float, found: Stops, resamples: Resamples) -> list[StopPoint]:
    points = []
    for group in resamples.groups:
        predicted, actual, share, first, last = (
            resamples.means(values.mean(1), group)
            for values in (
                found.predicted, found.actual, found.shares, found.at_first, found.at_last
            )
        )  # fmt: skip
        points.append(
            StopPoint(
                name,
                threshold,
                group,
                float(share[0]),
                float(predicted[0]),
                resamples.interval(actual, group),
                resamples.interval(actual / threshold - 1, group),
                float(first[0]),
                float(last[0]),
            )
        )
    return points


def _bins(
    name: str, kind: str, stops: Sequence[Stops], members: Bool[np.ndarray, " N"]
) -> list[StopBin]:
    """Frames of a kind in equal parts, from the least predicted loss to the largest."""
    predicted = np.concatenate([found.predicted[members].ravel() for found in stops])
    actual = np.concatenate([found.actual[members].ravel() for found in stops])
    order = predicted.argsort(kind="stable")
    return [
        StopBin(name, kind, len(part), float(predicted[part].mean()), float(actual[part].mean()))
        for part in np.array_split(order, min(BINS, len(order)))
    ]
