"""Early stopping: predicted against actual loss where selectors stop by a threshold.

Weights with a loss head gaze at a frame until the loss that they predict is at most the
threshold; the metric that they were trained with gives the actual loss. The control is a
selector that measures this metric's loss itself (`greedy`, with the canvas): it stays below
the threshold too, since patches are whole and every frame takes one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.clips import Clips
from autogaze.errors import SelectorError
from autogaze.evaluation.bootstrap import Estimate, Resamples
from autogaze.evaluation.quality.clips import QualityClip, read_batch
from autogaze.evaluation.quality.metrics import MeasuredClips, Metric
from autogaze.evaluation.selectors import MeasuredSelector
from autogaze.gaze import Gaze
from autogaze.models.autogaze.rows import GazeRows
from autogaze.reconstruction.canvas import reconstruct
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.utils.progress import silent


@dataclass(frozen=True)
class ThresholdPoint:
    """A selector at one threshold, on one group of clips; means over frames.

    Attributes:
        name: of the weights, or of the selector.
        share: of all patches, taken until the frame stopped.
        predicted: loss predicted, or measured by the selector, where a frame stopped.
        actual: loss that the metric finds there.
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
class CalibrationBin:
    """Frames, of all thresholds, with neighbouring predicted losses; means over them."""

    name: str
    kind: str
    frames: int
    predicted: float
    actual: float


@dataclass(frozen=True)
class ThresholdReport:
    """How well losses were predicted under the metric that gave the actual ones."""

    metric: str
    unit: str
    points: tuple[ThresholdPoint, ...]
    bins: tuple[CalibrationBin, ...]


def can_stop(selector: Selector, metric: str) -> bool:
    """Whether a selector predicts a loss, or measures that of this metric."""
    return isinstance(selector, Learned) or selector.metric == metric


@torch.inference_mode()
def measure_thresholds(
    clips: Sequence[QualityClip],
    selectors: Sequence[MeasuredSelector],
    metric: Metric,
    thresholds: Sequence[float],
    *,
    batch: int,
    device: torch.device,
    seed: int = 0,
    step: Callable[[str], object] = silent,
) -> ThresholdReport:
    """Let selectors stop at every threshold, and measure what they took.

    Args:
        selectors: learned ones, and those that measure the metric's loss (`can_stop`).
        metric: the one that weights were trained with.
    """
    V = selectors[0].selector.pyramid.num_patches
    shape = (len(selectors), len(thresholds), len(clips))
    found: dict[str, np.ndarray] = {}  # (selectors, thresholds, N, T) each
    for start in range(0, len(clips), batch):
        some = slice(start, start + batch)
        seen = read_batch(clips[some])
        clip_batch = MeasuredClips(seen.unit().to(device))
        for s, one in enumerate(selectors):
            step(f"{one.name} stops")
            for t, threshold in enumerate(thresholds):
                gaze, predicted = _stop(one.selector, seen, threshold)
                measured = metric.losses(clip_batch, gaze, reconstruct(clip_batch.frames, gaze))
                values = {"predicted": predicted, "actual": measured, "lengths": gaze.lengths}
                for name, value in values.items():
                    array = found.setdefault(name, np.empty((*shape, seen.num_frames)))
                    array[s, t, some] = value.double().cpu().numpy()
    arrays = {
        "share": found["lengths"] / V,
        "predicted": found["predicted"],
        "actual": found["actual"],
        "at_first": found["lengths"] == 1,
        "at_last": found["lengths"] == V,
    }
    resamples = Resamples.draw([c.source for c in clips], [c.kind for c in clips], seed)
    points, bins = [], []
    for s, one in enumerate(selectors):
        for t, threshold in enumerate(thresholds):
            for group in resamples.groups:
                averages = {
                    name: resamples.means(values[s, t].mean(1), group)
                    for name, values in arrays.items()
                }
                actual = averages.pop("actual")
                points.append(
                    ThresholdPoint(
                        name=one.name,
                        threshold=threshold,
                        group=group,
                        actual=resamples.interval(actual, group),
                        excess=resamples.interval(actual / threshold - 1, group),
                        **{name: float(values[0]) for name, values in averages.items()},
                    )
                )
        for kind, members in resamples.kinds.items():
            predicted, actual = (
                found[name][s][:, members].ravel() for name in ("predicted", "actual")
            )
            # Ten equal parts of the frames, from the least predicted loss to the largest.
            for part in np.array_split(predicted.argsort(kind="stable"), min(10, len(predicted))):
                means = float(predicted[part].mean()), float(actual[part].mean())
                bins.append(CalibrationBin(one.name, kind, len(part), *means))
    return ThresholdReport(metric.name, metric.unit, tuple(points), tuple(bins))


def _stop(selector: Selector, clips: Clips, threshold: float) -> tuple[Gaze, Float[Tensor, "B T"]]:
    """Gazes until a threshold, and the loss that the selector predicts of every frame there."""
    if not isinstance(selector, Learned):
        gaze = selector.select(clips, loss=threshold).to("cpu")
        if gaze.losses is None:
            raise SelectorError(f"{selector.name} stops by loss, but returns none")
        return gaze, gaze.losses
    video = selector.preprocess(clips)
    rows = selector.model.generate(video, threshold=threshold)
    scores = selector.model.score(video, rows)
    return rows.to_gaze().to("cpu"), _last_predicted(rows, scores.predicted_losses)


def _last_predicted(rows: GazeRows, predicted: Float[Tensor, "B slots"]) -> Float[Tensor, "B T"]:
    """The loss predicted after the last patch kept in every frame."""
    columns = []
    for kept, losses in zip(*(x.split(rows.slots, 1) for x in (rows.kept, predicted)), strict=True):
        last = torch.where(kept, torch.arange(kept.shape[1], device=kept.device), -1).amax(1)
        columns.append(losses.gather(1, last[:, None])[:, 0])
    return torch.stack(columns, dim=1)
