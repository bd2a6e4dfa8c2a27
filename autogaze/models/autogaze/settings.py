"""Ratio and loss threshold of calls that give neither: drawn as the config says."""

from dataclasses import dataclass
from typing import Any

import torch

from autogaze.errors import CheckpointError
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.selectors.base import Ratio


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
