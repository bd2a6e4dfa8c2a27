"""How far gazing may go: caps, and the predicted loss at which a row stops before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.clips import Ratio
from autogaze.errors import CheckpointError, SelectorError
from autogaze.models.autogaze.configuration import AutoGazeConfig

Caps = Sequence[int] | Int[Tensor, "rows T"]
"""Patches a frame may take at most: one number a frame, or one a row and frame."""

Threshold = float | Float[Tensor, " rows"]
"""Predicted loss at which a frame stops: one number, or one a row."""


@dataclass(frozen=True)
class FrameLimits:
    """Of one frame.

    Attributes:
        caps: patches that each row may take at most, in [1, V].
        threshold: predicted loss at which a row stops, (rows, 1) where each has its own;
            None never stops.
    """

    caps: tuple[int, ...]
    threshold: float | Float[Tensor, "rows 1"] | None


@dataclass(frozen=True)
class ClipLimits:
    """Of the next T frames of all rows.

    Attributes:
        caps: a row's caps, frame by frame.
        threshold: see `FrameLimits`.
    """

    caps: tuple[tuple[int, ...], ...]
    threshold: float | Float[Tensor, "rows 1"] | None

    @classmethod
    def of(
        cls,
        caps: Caps | None,
        threshold: Threshold | None,
        *,
        num_rows: int,
        num_frames: int,
        num_patches: int,
    ) -> "ClipLimits":
        """Limits in the forms that callers have them.

        Args:
            caps: None lets every frame take all patches.
            threshold: None never stops.
            num_patches: V, what a cap can be at most.

        Raises:
            SelectorError: too few or too many of them, or caps outside [1, V].
        """
        if caps is None:
            caps = (num_patches,) * num_frames
        own = isinstance(caps, Tensor)
        rows = caps.tolist() if own else [list(caps)] * num_rows  # type: ignore[union-attr]
        if len(rows) != num_rows or any(len(row) != num_frames for row in rows):
            got = tuple(caps.shape) if isinstance(caps, Tensor) else f"{len(caps)} a row"
            raise SelectorError(
                f"caps must be one a frame ({num_frames}) or a tensor of (rows, frames) = "
                f"({num_rows}, {num_frames}), got {got}"
            )
        for cap in (cap for row in (rows if own else rows[:1]) for cap in row):
            if not 1 <= cap <= num_patches:
                raise SelectorError(f"caps must lie in [1, {num_patches}], got {cap}")
        if isinstance(threshold, Tensor):
            if threshold.shape != (num_rows,):
                raise SelectorError(
                    f"threshold must be a number or one for each of {num_rows} rows, "
                    f"got {tuple(threshold.shape)}"
                )
            threshold = threshold[:, None]
        return cls(tuple(map(tuple, rows)), threshold)

    def frame(self, frame: int, rows: slice) -> FrameLimits:
        """Of one frame of some of the rows."""
        own = isinstance(self.threshold, Tensor)
        threshold = self.threshold[rows] if own else self.threshold  # type: ignore[index]
        return FrameLimits(tuple(row[frame] for row in self.caps[rows]), threshold)


def room_for(caps: Caps) -> int:
    """Patches a frame that the caches must have room for: slots are shared by all rows."""
    most = caps.amax(0).tolist() if isinstance(caps, Tensor) else list(caps)
    return -(-sum(most) // max(1, len(most)))


# Ratio and loss threshold of calls that give neither: drawn as the config says.


@dataclass(frozen=True)
class GazeSettings:
    """Cap and stop of one call: `ratio` a number or one a frame, `threshold` a predicted loss."""

    ratio: Ratio | None
    threshold: float | None


def draw_settings(
    config: AutoGazeConfig,
    num_frames: int,
    *,
    training: bool,
    generator: torch.Generator | None = None,
) -> GazeSettings:
    """Draw ratio and threshold by the config's strategy for training or inference.

    Mean ratio: `fixed`, `uniform` in [min, max], or `exponential` restricted to
    [min, max] with rate lambda. Over the frames: `uniform` gives each the mean;
    `dirichlet` shares the clip's budget out at random; `self` sets no cap and
    lets the loss threshold decide. Threshold: `fixed` or `uniform`.
    """
    phase = "training" if training else "inference"
    strategy = f"sample_strategy_during_{phase}"
    threshold = None
    if getattr(config, f"has_task_loss_requirement_during_{phase}"):
        threshold = _threshold(config.task_loss_requirement_config, strategy, generator)
    spread = config.gazing_ratio_each_frame_config
    kind = spread[strategy]
    if kind == "self":
        if threshold is None:
            threshold = _threshold(config.task_loss_requirement_config, strategy, generator)
        return GazeSettings(None, threshold)
    ratio = _mean_ratio(config.gazing_ratio_config, strategy, generator)
    if kind == "uniform":
        return GazeSettings(ratio, threshold)
    if kind == "dirichlet":
        alpha = torch.full((num_frames,), float(spread["dirichlet"]["alpha"]))
        # A Dirichlet draw is gamma draws, normalised; this one takes a generator.
        gammas = torch._standard_gamma(alpha, generator=generator)
        shares = gammas / gammas.sum().clamp_min(1e-12)
        frames = (shares * ratio * num_frames).clamp(0, 1)
        return GazeSettings(frames.tolist(), threshold)
    raise _unknown("gazing_ratio_each_frame_config", kind, ("uniform", "dirichlet", "self"))


def _mean_ratio(options: dict[str, Any], strategy: str, generator: torch.Generator | None) -> float:
    kind = options[strategy]
    if kind not in ("fixed", "uniform", "exponential"):
        raise _unknown("gazing_ratio_config", kind, ("fixed", "uniform", "exponential"))
    ends = ("gazing_ratio",) * 2 if kind == "fixed" else ("gazing_ratio_min", "gazing_ratio_max")
    low, high = (float(options[kind][end]) for end in ends)
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
    rate = float(options[kind]["lambda"])
    tail = torch.exp(torch.tensor(-rate * (high - low), dtype=torch.float64))
    return float(low - torch.log1p(-u * (1 - tail)) / rate)


def _threshold(options: dict[str, Any], strategy: str, generator: torch.Generator | None) -> float:
    kind = options[strategy]
    if kind == "fixed":
        return float(options["fixed"]["task_loss_requirement"])
    if kind == "uniform":
        low = float(options["uniform"]["task_loss_requirement_min"])
        high = float(options["uniform"]["task_loss_requirement_max"])
        return low + (high - low) * float(torch.rand((), generator=generator))
    raise _unknown("task_loss_requirement_config", kind, ("fixed", "uniform"))


def _unknown(option: str, got: object, known: tuple[str, ...]) -> CheckpointError:
    return CheckpointError(f"{option}: unknown strategy {got!r}; known: {', '.join(known)}")
