"""Limits of a gaze: caps per frame, the stopping threshold, and how a config draws both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.clips import Ratio
from autogaze.errors import CheckpointError, SelectorError
from autogaze.models.autogaze.configuration import AutoGazeConfig

Caps = Sequence[int] | Int[Tensor, "rows T"]
"""The most patches gazed at: one number per frame, or one per row and frame."""

Threshold = float | Float[Tensor, " rows"] | Float[Tensor, "rows T"]
"""Stopping threshold, a predicted loss: one number, one per row, or one per row and frame."""

NOT_ALLOWED = -1e4
"""Log of the factor on the probability of patches that may not be chosen: zero in any softmax. It
is finite, so that rows which have finished can be sampled beside others without NaN."""


@dataclass(frozen=True)
class FrameLimits:
    """Limits of one frame.

    Attributes:
        caps: the most patches each row may take, in [1, V].
        threshold: predicted loss at which a row stops, (rows, 1) where each has its own;
            None never stops.
        allowed: the patches each row may choose, at least as many as its cap; None: all.
    """

    caps: tuple[int, ...]
    threshold: float | Float[Tensor, "rows 1"] | None
    allowed: Bool[Tensor, "rows V"] | None = None

    def of_rows(self, rows: slice) -> "FrameLimits":
        """The limits of a slice of rows."""
        own = isinstance(self.threshold, Tensor)
        threshold = self.threshold[rows] if own else self.threshold  # type: ignore[index]
        allowed = None if self.allowed is None else self.allowed[rows]
        return FrameLimits(self.caps[rows], threshold, allowed)

    def log_weights(
        self, log_weights: Float[Tensor, "rows V"] | None = None
    ) -> Float[Tensor, "rows V"] | None:
        """Log of the factors on probabilities, those of patches that are not allowed included."""
        if self.allowed is None:
            return log_weights
        barred = torch.zeros_like(self.allowed, dtype=torch.float32)
        barred = barred.masked_fill(~self.allowed, NOT_ALLOWED)
        return barred if log_weights is None else barred + log_weights


def stopped_slots(
    losses: Float[Tensor, "B k"], threshold: float | Float[Tensor, "B 1"], *, first_block: bool
) -> Bool[Tensor, "B k"]:
    """Apply the stopping threshold to a block: True where a slot becomes padding.

    That is where the loss predicted before the slot's patch is added is at most `threshold`.
    The test is per slot, and a row with any stopped slot is finished for this frame. Slot 0 of
    a frame never stops, so every frame takes at least one patch.
    """
    stopped = losses.to(torch.promote_types(losses.dtype, torch.float32)) <= threshold
    if first_block:
        stopped[:, 0] = False
    return stopped


def loss_left(
    losses: Float[Tensor, "B K"],
    budget: Int[Tensor, "B 1"],
    stopped: Bool[Tensor, "B k"] | None = None,
) -> Float[Tensor, " B"]:
    """The predicted loss that a block leaves in the frame of each row.

    A row that met the stopping threshold leaves the loss of the slot that stopped it. Any other row
    leaves that of the slot after its last patch; where it fills the block, that of the last slot,
    since what comes after is predicted only if the patch is fed.

    Args:
        losses: predicted before each of the block's patches.
        budget: patches that each row may still take, those of this block included.
        stopped: slots that the stopping threshold ended, if there is one.
    """
    slot = budget.clamp(min=0, max=losses.shape[1] - 1)
    if stopped is not None:
        stops = stopped & (torch.arange(stopped.shape[1], device=budget.device) < budget)
        slot = torch.where(stops.any(1, keepdim=True), stops.int().argmax(1, keepdim=True), slot)
    return losses.gather(1, slot)[:, 0].float()


def frame_limits(
    caps: Caps | None,
    threshold: Threshold | None,
    *,
    num_rows: int,
    num_frames: int,
    num_patches: int,
) -> list[FrameLimits]:
    """Limits of the next frames of all rows, one `FrameLimits` per frame.

    Args:
        caps: None lets every frame take all V patches.
        threshold: None never stops.
        num_patches: V.

    Raises:
        SelectorError: caps or thresholds of another shape, or caps outside [1, V].
    """
    if caps is None:
        caps = (num_patches,) * num_frames
    if isinstance(caps, Tensor):
        rows, shape = caps.tolist(), tuple(caps.shape)
    else:
        rows, shape = [list(caps)] * num_rows, (num_rows, len(caps))
    if shape != (num_rows, num_frames):
        raise SelectorError(
            "caps must be one per frame or a tensor of (rows, frames) = "
            f"({num_rows}, {num_frames}), got {shape}"
        )
    wrong = [cap for row in rows for cap in row if not 1 <= cap <= num_patches]
    if wrong:
        raise SelectorError(f"caps must lie in [1, {num_patches}], got {wrong[0]}")
    thresholds: Sequence[float | Tensor | None] = [threshold] * num_frames
    if isinstance(threshold, Tensor):
        if threshold.shape not in ((num_rows,), (num_rows, num_frames)):
            raise SelectorError(
                f"threshold must be a number, one for each of {num_rows} rows, or "
                f"({num_rows}, {num_frames}); got {tuple(threshold.shape)}"
            )
        if threshold.ndim == 1:
            threshold = threshold[:, None].expand(-1, num_frames)
        thresholds = threshold.split(1, dim=1)
    return [
        FrameLimits(tuple(column), each)
        for column, each in zip(zip(*rows, strict=True), thresholds, strict=True)
    ]


@dataclass(frozen=True)
class GazeSettings:
    """Limits drawn for one call: `ratio`, one number or one per frame, and stopping `threshold`."""

    ratio: Ratio | None
    threshold: float | None


def draw_settings(
    config: AutoGazeConfig,
    num_frames: int,
    *,
    training: bool,
    generator: torch.Generator | None = None,
) -> GazeSettings:
    """Draw ratio and threshold of a call that gives neither, by the config's strategy.

    Mean ratio: `fixed`, `uniform` in [min, max], or `exponential` restricted to
    [min, max] with rate lambda. Over the frames: `uniform` gives each the mean;
    `dirichlet` shares the clip's budget out at random; `self` sets no cap and
    lets the loss threshold decide. Threshold: `fixed` or `uniform`.

    Raises:
        CheckpointError: an unknown strategy, or ratios outside [0, 1].
    """
    threshold = draw_threshold(config, training=training, generator=generator)
    ratio = draw_mean_ratio(config, training=training, generator=generator)
    frames = share_out(config, ratio, num_frames, training=training, generator=generator)
    return GazeSettings(frames, threshold)


def draw_threshold(
    config: AutoGazeConfig, *, training: bool, generator: torch.Generator | None = None
) -> float | None:
    """The stopping threshold by the config's strategy; None where it asks for none."""
    phase = _phase(training)
    strategy = f"sample_strategy_during_{phase}"
    alone = _options(config, "gazing_ratio_each_frame_config").get(strategy) == "self"
    if not (alone or getattr(config, f"has_task_loss_requirement_during_{phase}")):
        return None
    group = "task_loss_requirement_config"
    options = _options(config, group)
    kind = options.get(strategy)
    if kind == "fixed":
        return _number(options, group, kind, "task_loss_requirement")
    if kind == "uniform":
        low = _number(options, group, kind, "task_loss_requirement_min")
        high = _number(options, group, kind, "task_loss_requirement_max")
        return low + (high - low) * float(torch.rand((), generator=generator))
    raise _unknown(group, kind, ("fixed", "uniform"))


def draw_mean_ratio(
    config: AutoGazeConfig, *, training: bool, generator: torch.Generator | None = None
) -> float | None:
    """The clip's mean ratio by the config's strategy; None where the threshold alone decides."""
    strategy = f"sample_strategy_during_{_phase(training)}"
    if _options(config, "gazing_ratio_each_frame_config").get(strategy) == "self":
        return None
    group = "gazing_ratio_config"
    options = _options(config, group)
    kind = options.get(strategy)
    if kind not in ("fixed", "uniform", "exponential"):
        raise _unknown(group, kind, ("fixed", "uniform", "exponential"))
    ends = ("gazing_ratio",) * 2 if kind == "fixed" else ("gazing_ratio_min", "gazing_ratio_max")
    low, high = (_number(options, group, kind, end) for end in ends)
    if not 0 <= low <= high <= 1:
        raise CheckpointError(
            f"gazing_ratio_config.{kind}: ratios must lie in [0, 1], the least first, got {low:g}"
            + (f" to {high:g}" if kind != "fixed" else "")
        )
    if kind == "fixed":
        return low
    u = torch.rand((), generator=generator, dtype=torch.float64)
    if kind == "uniform":
        return float(low + (high - low) * u)
    # Inverse of the distribution function of an exponential cut to [low, high].
    rate = _number(options, group, kind, "lambda")
    if rate == 0:
        raise CheckpointError("gazing_ratio_config.exponential.lambda must not be 0; use uniform")
    tail = torch.exp(torch.tensor(-rate * (high - low), dtype=torch.float64))
    return float(low - torch.log1p(-u * (1 - tail)) / rate)


def share_out(
    config: AutoGazeConfig,
    ratio: float | None,
    num_frames: int,
    *,
    training: bool,
    generator: torch.Generator | None = None,
) -> Ratio | None:
    """A clip's mean ratio over its frames, by the config's strategy."""
    spread = _options(config, "gazing_ratio_each_frame_config")
    kind = spread.get(f"sample_strategy_during_{_phase(training)}")
    if kind == "self" or ratio is None:
        return None
    if kind == "uniform":
        return ratio
    if kind == "dirichlet":
        alpha = _concentrations(spread.get("dirichlet"), num_frames)
        # A Dirichlet draw is gamma draws, normalised; this one takes a generator.
        gammas = torch._standard_gamma(alpha, generator=generator)
        shares = gammas / gammas.sum().clamp_min(1e-12)
        return (shares * ratio * num_frames).clamp(0, 1).tolist()
    raise _unknown("gazing_ratio_each_frame_config", kind, ("uniform", "dirichlet", "self"))


def usual_threshold(config: AutoGazeConfig) -> float | None:
    """The threshold of a call that gives neither ratio nor loss: the config's fixed one, else the
    middle of its uniform range; None where it has neither.
    """
    group = "task_loss_requirement_config"
    options = _options(config, group)
    name = "task_loss_requirement"
    if options.get("fixed") is not None:
        return _number(options, group, "fixed", name)
    if options.get("uniform") is not None:
        ends = [_number(options, group, "uniform", f"{name}_{end}") for end in ("min", "max")]
        return sum(ends) / 2
    return None


def _options(config: AutoGazeConfig, group: str) -> Mapping[str, Any]:
    """A group of options, which may have been replaced since the config was made."""
    options = getattr(config, group)
    if not isinstance(options, Mapping):
        raise CheckpointError(f"{group} must be a group of options, got {describe_value(options)}")
    return options


def _phase(training: bool) -> str:
    return "training" if training else "inference"


def _concentrations(options: Any, num_frames: int) -> Float[Tensor, " T"]:
    """Dirichlet's alpha of every frame: one number for all, a list, or "10,3,3".

    A shorter clip takes the first numbers of a list.
    """
    given = options.get("alpha") if isinstance(options, Mapping) else None
    listed = given.strip("[]() ").split(",") if isinstance(given, str) else given
    try:
        each: Any = listed if isinstance(listed, Sequence) else [listed]
        numbers = [float(number) for number in each]
    except (TypeError, ValueError):
        numbers = []
    path = "gazing_ratio_each_frame_config.dirichlet.alpha"
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise CheckpointError(
            f"{path} must be a number above 0, or one per frame as '10,3,3', got {given!r}"
        )
    if len(numbers) == 1:
        numbers *= num_frames
    if len(numbers) < num_frames:
        raise CheckpointError(
            f"{path} has {len(numbers)} numbers, but clips have {num_frames} frames"
        )
    return torch.tensor(numbers[:num_frames])


def _number(options: Mapping[str, Any], group: str, kind: str, name: str) -> float:
    """An option of a strategy; CheckpointError where it is missing or no number."""
    part = options.get(kind)
    value = part.get(name) if isinstance(part, Mapping) else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise CheckpointError(
            f"{group}.{kind}.{name} must be a finite number, got {describe_value(value)}"
        )
    return number


def _unknown(option: str, got: object, known: tuple[str, ...]) -> CheckpointError:
    return CheckpointError(f"{option}: unknown strategy {got!r}; known: {', '.join(known)}")
