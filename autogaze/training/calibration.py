"""Calibration of the loss head: weights that stop where they are asked to.

The loss head learns from labels: losses after gazes that were better than the selector's own,
so it promises too much, and a stop takes the first promise that is low enough. Two steps mend
it, with all other weights as they are:

1. Heads are fitted, in closed form, to losses measured after the selector's own gazes at
   budgets of all sizes; errors count relative to the loss.
2. The selector stops at thresholds; all predictions are scaled until the losses measured at
   the stop are, in the geometric mean over thresholds and clips, the thresholds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from autogaze.datasets.seeds import seeded
from autogaze.errors import TrainingError
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.scoring import loss_states
from autogaze.selectors.base import frame_caps
from autogaze.tasks.base import Task
from autogaze.training.lesson import GazeRows

SHARES = (0.01, 0.4)
"""Budgets of the gazes that heads are fitted to: shares of all patches, log-uniform."""
STRENGTH = 1e-3
"""How strongly heads are held where they were, relative to the data."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How a loss head is calibrated.

    Args:
        thresholds: where the selector is made to stop, in the task's unit.
        gazes: at every clip, of budgets of their own.
        rounds: of scaling; each corrects what the one before left.
        seed: of the budgets.
    """

    thresholds: tuple[float, ...] = (0.01, 0.015, 0.02, 0.03, 0.05)
    gazes: int = 3
    rounds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < t < math.inf for t in self.thresholds):
            raise TrainingError(f"thresholds must be above 0, got {self.thresholds}")
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
        scale: what the fitted heads were multiplied with.
    """

    error_before: float
    error_after: float
    excess: tuple[tuple[float, ...], ...]
    scale: float


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
        TrainingError: no clips.
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
    scale, excess = 1.0, []
    weight.copy_(fitted)
    for number in range(options.rounds + 1):
        found = _stop_losses(model, task, clips, options.thresholds, advance)
        excess.append(
            tuple(
                float(row.mean() / t - 1) for row, t in zip(found, options.thresholds, strict=True)
            )
        )
        if number < options.rounds:
            mean = sum(math.log1p(value) for value in excess[-1]) / len(excess[-1])
            scale *= math.exp(mean)
            weight.copy_(scale * fitted)
    return CalibrationReport(before, after, tuple(excess), scale)


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
    """The ends of all frames of one gaze of a clip."""
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
    last = torch.tensor([rows.ends(frame) - 1 for frame in range(T)], device=states.heads.device)
    losses = task(frames, rows.gaze(), range(T)).losses[0]
    return HeadSamples(
        states.states[0, last].double(), states.heads[last], losses.to(states.heads.device).double()
    )


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
