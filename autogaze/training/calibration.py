"""Calibration of the loss head: weights whose early stopping meets the threshold asked for.

The loss head learns from labels, which are better than the selector's own gazes, so it predicts
too low a loss, and early stopping takes the first prediction below the threshold. Two steps
correct it; all other weights stay:

1. Heads are fitted, in closed form, to losses measured after the selector's own gazes at
   budgets of all sizes; errors are relative to the loss.
2. The selector stops at given thresholds, and the mean losses measured there show what its
   predictions mean. All predictions are mapped by the straight line closest to these losses,
   relative to the thresholds; repeated until the thresholds are met.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.clips import frame_caps
from autogaze.errors import TrainingError
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.scoring import loss_states
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.utils.seeding import seeded

SHARES = (0.01, 0.8)
"""Budgets of the gazes that heads are fitted to: shares of all patches, log-uniform."""
STRIDE = 2.0
"""Largest factor by which one round may change predictions."""
LARGEST = 4.0
"""Largest factor in all: beyond it, thresholds are out of reach."""
STRENGTH = 1e-3
"""Weight of staying close to the given heads, relative to the data."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How a loss head is calibrated.

    Args:
        thresholds: of early stopping, in the task's unit.
        gazes: per clip, with budgets of their own.
        rounds: of step 2; each corrects what the one before left.
        seed: of the budgets.
    """

    thresholds: tuple[float, ...] = (0.01, 0.015, 0.02, 0.03, 0.05)
    gazes: int = 3
    rounds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < t < math.inf for t in self.thresholds):
            raise TrainingError(f"thresholds must be finite and above 0, got {self.thresholds}")
        if self.gazes < 1 or self.rounds < 0:
            raise TrainingError("gazes must be at least 1, rounds at least 0")


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration measured and changed.

    Attributes:
        error_before, error_after: root mean square of predicted / measured - 1 of the gazes
            that heads were fitted to.
        excess: mean of measured loss / threshold - 1 where gazes stop, before the first round
            and after each; one number per threshold.
        scale, offset: of the line that maps the fitted heads' predictions.
    """

    error_before: float
    error_after: float
    excess: tuple[tuple[float, ...], ...]
    scale: float
    offset: float


class HeadSamples(NamedTuple):
    """Decoder states from which losses are predicted, and the losses measured there."""

    states: Float[Tensor, "N C"]
    heads: Int[Tensor, " N"]
    losses: Float[Tensor, " N"]

    def error(self, head: Float[Tensor, "K C"], floor: float) -> float:
        """Root mean square of a head's relative error."""
        predicted = (self.states * head[self.heads]).sum(1)
        return float(((predicted - self.losses) / (self.losses + floor)).square().mean().sqrt())


@torch.no_grad()
def calibrate(
    model: AutoGaze,
    task: Task,
    clips: Sequence[UInt8[Tensor, "T 3 S S"]],
    options: CalibrationOptions = CalibrationOptions(),
    advance: Callable[[], None] = lambda: None,
    dtype: torch.dtype = torch.float32,
) -> CalibrationReport:
    """Replace the loss head's weights.

    Args:
        model: in float32; only its loss head changes.
        task: measures losses, in its own precision.
        clips: of equal length, which the weights have not been trained on, if that can be.
        advance: called `num_passes` times.
        dtype: precision in which the model gazes meanwhile: that in which it will.

    Raises:
        TrainingError: no clips, or thresholds out of reach.
    """
    if not clips:
        raise TrainingError("calibration needs clips, got none")
    model.eval()
    weight = _loss_head(model)
    gazing = model if dtype == model.dtype else deepcopy(model).to(dtype)  # type: ignore[arg-type]
    floor = min(options.thresholds) / 2
    generator = seeded("calibration", options.seed)
    parts = []
    for clip in clips:
        for _ in range(options.gazes):
            parts.append(_samples(gazing, task, clip, generator))
            advance()
    samples = HeadSamples(*map(torch.cat, zip(*parts, strict=True)))
    before = samples.error(weight.double(), floor)
    fitted = fit_head(weight.double(), samples, floor)
    after = samples.error(fitted, floor)
    scale, offset, excess = 1.0, 0.0, []
    constant = _constant(samples.states)

    def replace_head(head: Tensor) -> None:
        weight.copy_(head)
        _loss_head(gazing).copy_(head)

    replace_head(fitted)
    for number in range(options.rounds + 1):
        found = _stop_losses(gazing, task, clips, options.thresholds, advance)
        excess.append(tuple((found.mean(1) / torch.tensor(options.thresholds) - 1).tolist()))
        if number < options.rounds:
            slope, shift = fit_line(options.thresholds, found.mean(1).tolist())
            scale, offset = slope * scale, slope * offset + shift
            _check_reach(scale, offset, excess[-1], options.thresholds)
            replace_head(scale * fitted + offset * constant)
    return CalibrationReport(before, after, tuple(excess), scale, offset)


def _loss_head(model: AutoGaze) -> Float[Tensor, "K C"]:
    return model.gazing_model.gaze_decoder.task_loss_prediction_head.weight


def _constant(states: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """The head whose prediction is closest to 1 at every state: heads have no bias."""
    gram = states.mT @ states
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram, states.sum(0))


def fit_line(thresholds: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Scale and offset of the line closest to the losses at thresholds, relative to these.

    It only scales where there is one threshold, and where they are too close to determine a
    slope: within `STRIDE`.
    """
    x = torch.tensor(thresholds, dtype=torch.float64)
    y = torch.tensor(losses, dtype=torch.float64).clamp(x / STRIDE, x * STRIDE)
    if len(set(thresholds)) > 1:
        sides = torch.stack([torch.ones_like(x), 1 / x], 1)
        scale, offset = torch.linalg.lstsq(sides, (y / x)[:, None]).solution[:, 0].tolist()
        if 1 / STRIDE <= scale <= STRIDE:
            return scale, offset
    return float((y / x).log().mean().exp()), 0.0


def _check_reach(
    scale: float, offset: float, excess: Sequence[float], thresholds: Sequence[float]
) -> None:
    """Raise TrainingError where thresholds cannot be met by mapping predictions."""
    factors = [scale, *((scale * threshold + offset) / threshold for threshold in thresholds)]
    if all(1 / LARGEST <= factor <= LARGEST for factor in factors):
        return
    worst = max(factors, key=lambda factor: abs(math.log(max(factor, 1e-9))))
    found = ", ".join(f"{100 * e:+.0f} % at {t:g}" for t, e in zip(thresholds, excess, strict=True))
    raise TrainingError(
        f"multiplying predictions by {worst:.3g} does not bring losses to the stopping thresholds "
        f"({found}): leave out those that a frame's first patch meets, or that none can meet"
    )


def num_passes(num_clips: int, options: CalibrationOptions) -> int:
    """Number of passes over a clip that `calibrate` makes."""
    return num_clips * (options.gazes + (options.rounds + 1) * len(options.thresholds))


def fit_head(
    head: Float[Tensor, "K C"], samples: HeadSamples, floor: float
) -> Float[Tensor, "K C"]:
    """Heads that predict the samples' losses best, close to `head` where these are few.

    Least squares of (predicted - loss) / (loss + floor), for each of the K heads.
    """
    fitted = head.clone()
    for k in range(len(head)):
        mine = samples.heads == k
        if not mine.any():
            continue
        losses = samples.losses[mine].to(head)
        weighted = samples.states[mine].to(head) / (losses + floor)[:, None]
        gram = weighted.mT @ weighted
        gram += STRENGTH * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        missing = (losses / (losses + floor)) - weighted @ head[k]
        fitted[k] += torch.linalg.solve(gram, weighted.mT @ missing)
    return fitted


def _samples(
    model: AutoGaze, task: Task, clip: UInt8[Tensor, "T 3 S S"], generator: torch.Generator
) -> HeadSamples:
    """Samples of one gaze at a clip: after every patch for the canvas, else after each frame."""
    low, high = (math.log(share) for share in SHARES)
    T = len(clip)
    drawn = torch.rand(T, generator=generator)
    # Frames of a clip share a budget roughly, so that caches of all sizes occur.
    middle = low + (high - low) * torch.rand(1, generator=generator)
    ratios = (middle + 0.5 * (2 * drawn - 1)).exp().clamp(*SHARES)
    caps = frame_caps(ratios.tolist(), T, model.pyramid.num_patches)
    frames = clip[None].to(model.device).float() / 255
    video = normalise(frames).to(model.dtype)
    rows = model.generate(video, caps=caps)
    states, heads = loss_states(
        model.gazing_model.gaze_decoder,
        model.gazing_model.vision_tokens(video)[0],
        rows,
    )
    slots, losses = _measured(task, clip, frames, rows)
    device = states.device
    return HeadSamples(
        states[0, slots.to(device)].double(),
        heads[slots.to(heads.device)].to(device),
        losses.double().to(device),
    )


def _measured(
    task: Task, clip: UInt8[Tensor, "T 3 S S"], frames: Float[Tensor, "1 T 3 S S"], rows: GazeRows
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Slots of one clip's gaze after which losses are known, and these losses."""
    if isinstance(task, CanvasReconstruction):  # known after every patch at no cost
        gaze = rows.to_gaze().to("cpu")
        ids = [part.tolist() for part in gaze.ids.split(gaze.lengths[0].tolist())]
        labels = CanvasSearcher(gaze.pyramid).follow(clip.to(frames.device), ids)
        flat = [loss for frame in labels.losses for loss in frame]
        return rows.kept[0].nonzero()[:, 0], torch.tensor(flat)
    last = torch.tensor([rows.ends(frame) - 1 for frame in range(len(clip))])
    return last, task(frames, rows.to_gaze(), range(len(clip))).losses[0]


def _stop_losses(
    model: AutoGaze,
    task: Task,
    clips: Sequence[UInt8[Tensor, "T 3 S S"]],
    thresholds: Sequence[float],
    advance: Callable[[], None],
) -> Float[Tensor, "thresholds N"]:
    """Losses measured where the selector stops; means over frames."""
    found = torch.empty(len(thresholds), len(clips))
    for c, clip in enumerate(clips):
        frames = clip[None].to(model.device).float() / 255
        video = normalise(frames).to(model.dtype)
        for t, threshold in enumerate(thresholds):
            gaze = model.generate(video, threshold=threshold).to_gaze()
            found[t, c] = task(frames, gaze, range(len(clip))).losses.mean()
            advance()
    return found
