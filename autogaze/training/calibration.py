"""Calibration of the loss head: weights that stop where they are asked to.

The loss head learns from labels: losses after gazes that were better than the selector's own,
so it promises too much, and a stop takes the first promise that is low enough. Two steps mend
it, with all other weights as they are:

1. Heads are fitted, in closed form, to losses measured after the selector's own gazes at
   budgets of all sizes; errors count relative to the loss.
2. The selector stops at thresholds, and what it then leaves, means over clips, says what its
   predictions mean there. All of them follow the straight line that comes nearest to these
   losses, relative to the thresholds; and so again, until the thresholds are what is left.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.clips import frame_caps
from autogaze.errors import TrainingError
from autogaze.labelling.search import CanvasSearcher
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.scoring import loss_states
from autogaze.tasks.base import Task
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
from autogaze.training.rollouts import GazeRows
from autogaze.utils.seeding import seeded

SHARES = (0.01, 0.8)
"""Budgets of the gazes that heads are fitted to: shares of all patches, log-uniform."""
STRIDE = 2.0
"""What one round may multiply predictions of a threshold with at most."""
LARGEST = 4.0
"""Multiplying these by more than this mends nothing: thresholds are out of reach."""
STRENGTH = 1e-3
"""How strongly heads are held where they were, relative to the data."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How a loss head is calibrated.

    Args:
        thresholds: where the selector is made to stop, in the task's unit.
        gazes: at every clip, of budgets of their own.
        rounds: of mending; each corrects what the one before left.
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
    """What calibration found and did.

    Attributes:
        error_before, error_after: root mean square of predicted / measured - 1 of the gazes
            that heads were fitted to.
        excess: mean of measured loss / threshold - 1 at the stop, after each round and first
            of all before any; one number a threshold.
        scale, offset: what predictions of the fitted heads were multiplied with, and what
            was added then.
    """

    error_before: float
    error_after: float
    excess: tuple[tuple[float, ...], ...]
    scale: float
    offset: float


@dataclass(frozen=True)
class Line:
    """scale * prediction + offset."""

    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def through(cls, places: Sequence[float], values: Sequence[float]) -> "Line":
        """Nearest to the values, relative to the places.

        By scaling alone of one place, and where places are so near to one another that what is
        found there says nothing of a slope: then it would be steeper or flatter than `STRIDE`.
        """
        x = torch.tensor(places, dtype=torch.float64)
        y = torch.tensor(values, dtype=torch.float64).clamp(x / STRIDE, x * STRIDE)
        if len(set(places)) > 1:
            sides = torch.stack([torch.ones_like(x), 1 / x], 1)
            scale, offset = torch.linalg.lstsq(sides, (y / x)[:, None]).solution[:, 0].tolist()
            if 1 / STRIDE <= scale <= STRIDE:
                return cls(scale, offset)
        return cls(float((y / x).log().mean().exp()))

    def after(self, first: "Line") -> "Line":
        """Both, `first` before this one."""
        return Line(self.scale * first.scale, self.scale * first.offset + self.offset)

    def at(self, value: float) -> float:
        """What it makes of a prediction."""
        return self.scale * value + self.offset


@dataclass(frozen=True)
class HeadSamples:
    """States from which losses were to be predicted, and what these were."""

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
) -> CalibrationReport:
    """Replace the loss head's weights.

    Args:
        model: in float32; only its loss head changes.
        task: measures losses.
        clips: of equal length, which the weights have not been trained on, if that can be.
        advance: called `num_passes` times.

    Raises:
        TrainingError: no clips, or thresholds out of reach.
    """
    if not clips:
        raise TrainingError("a loss head is calibrated on clips; there are none")
    model.eval()
    weight = model.gazing_model.gaze_decoder.task_loss_prediction_head.weight
    floor = min(options.thresholds) / 2
    generator = seeded("calibration", options.seed)
    parts = []
    for clip in clips:
        for _ in range(options.gazes):
            parts.append(_samples(model, task, clip, generator))
            advance()
    samples = HeadSamples(
        *(torch.cat([getattr(p, n) for p in parts]) for n in ("states", "heads", "losses"))
    )
    before = samples.error(weight.double(), floor)
    fitted = fit_head(weight.double(), samples, floor)
    after = samples.error(fitted, floor)
    line, excess = Line(), []
    constant = _constant(samples.states)
    weight.copy_(fitted)
    for number in range(options.rounds + 1):
        found = _stop_losses(model, task, clips, options.thresholds, advance)
        excess.append(tuple((found.mean(1) / torch.tensor(options.thresholds) - 1).tolist()))
        if number < options.rounds:
            line = Line.through(options.thresholds, found.mean(1).tolist()).after(line)
            _check_reach(line, excess[-1], options.thresholds)
            weight.copy_(line.scale * fitted + line.offset * constant)
    return CalibrationReport(before, after, tuple(excess), line.scale, line.offset)


def _constant(states: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
    """What reads 1 from every state, as nearly as can be: heads have no bias."""
    gram = states.mT @ states
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram, states.sum(0))


def _check_reach(line: Line, excess: Sequence[float], thresholds: Sequence[float]) -> None:
    """Raise TrainingError where thresholds cannot be met by mending predictions."""
    factors = [line.scale, *(line.at(threshold) / threshold for threshold in thresholds)]
    if all(1 / LARGEST <= factor <= LARGEST for factor in factors):
        return
    worst = max(factors, key=lambda factor: abs(math.log(max(factor, 1e-9))))
    found = ", ".join(f"{100 * e:+.0f} % at {t:g}" for t, e in zip(thresholds, excess, strict=True))
    raise TrainingError(
        f"multiplying predictions by {worst:.3g} does not bring the losses at the stop to the thresholds "
        f"({found}): leave out those that a frame's first patch meets, or that none can meet"
    )


def num_passes(num_clips: int, options: CalibrationOptions) -> int:
    """How often `calibrate` looks at a clip."""
    return num_clips * (options.gazes + (options.rounds + 1) * len(options.thresholds))


def fit_head(
    head: Float[Tensor, "K C"], samples: HeadSamples, floor: float
) -> Float[Tensor, "K C"]:
    """Heads that predict the samples' losses best, close to `head` where these say little.

    Least squares of (predicted - loss) / (loss + floor), every one of the K for itself.
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
    """Of one gaze of a clip: every patch's with the canvas, else those that end frames."""
    low, high = (math.log(share) for share in SHARES)
    T = len(clip)
    drawn = torch.rand(T, generator=generator)
    # A clip's frames share a budget roughly, so that what is carried along is of all kinds.
    middle = low + (high - low) * torch.rand(1, generator=generator)
    ratios = (middle + 0.5 * (2 * drawn - 1)).exp().clamp(*SHARES)
    caps = frame_caps(ratios.tolist(), T, model.pyramid.num_patches)
    frames = clip[None].to(model.device).float() / 255
    video = normalise(frames)
    rows = GazeRows.of_generation(model.generate(video, caps=caps))
    states = loss_states(
        model.gazing_model.gaze_decoder,
        rows.see(model, video),
        rows.ids,
        rows.kept,
        list(rows.slots),
    )
    slots, losses = _measured(task, clip, frames, rows)
    device = states.states.device
    return HeadSamples(
        states.states[0, slots.to(device)].double(),
        states.heads[slots.to(states.heads.device)].to(device),
        losses.double().to(device),
    )


def _measured(
    task: Task, clip: UInt8[Tensor, "T 3 S S"], frames: Float[Tensor, "1 T 3 S S"], rows: GazeRows
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Slots of one clip's gaze after which losses are known, and these."""
    if isinstance(task, CanvasReconstruction):  # tells them after every patch, for nothing
        gaze = rows.gaze().to("cpu")
        ids = [part.tolist() for part in gaze.ids.split(gaze.lengths[0].tolist())]
        labels = CanvasSearcher(gaze.pyramid).follow(clip, ids)
        flat = [loss for frame in labels.losses for loss in frame]
        return rows.kept[0].nonzero()[:, 0], torch.tensor(flat)
    last = torch.tensor([rows.ends(frame) - 1 for frame in range(len(clip))])
    return last, task(frames, rows.gaze(), range(len(clip))).losses[0]


def _stop_losses(
    model: AutoGaze,
    task: Task,
    clips: Sequence[UInt8[Tensor, "T 3 S S"]],
    thresholds: Sequence[float],
    advance: Callable[[], None],
) -> Float[Tensor, "thresholds N"]:
    """What is measured where the selector stops; means over frames."""
    found = torch.empty(len(thresholds), len(clips))
    for c, clip in enumerate(clips):
        frames = clip[None].to(model.device).float() / 255
        for t, threshold in enumerate(thresholds):
            generation = model.generate(normalise(frames), threshold=threshold)
            found[t, c] = task(frames, generation.to_gaze(), range(len(clip))).losses.mean()
            advance()
    return found
