"""How many patches each frame of a labelled clip gets."""

import math
from dataclasses import dataclass

import torch

from autogaze.datasets.seeds import uniform
from autogaze.errors import TrainingError
from autogaze.selectors.base import frame_caps


@dataclass(frozen=True)
class GazeBudget:
    """A clip's mean ratio, and how its frames share it (AutoGaze, section 3.3).

    Args:
        low, high: bounds of the mean ratio.
        rate: of the exponential that it is drawn from, restricted to the bounds.
        first, later: Dirichlet concentrations of frame 0 and of each other frame.

    Raises:
        TrainingError: bounds that are no ratios, or numbers that are not positive.
    """

    low: float = 0.02
    high: float = 0.2
    rate: float = 10.0
    first: float = 10.0
    later: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise TrainingError(
                f"the mean ratio must satisfy 0 < low <= high <= 1, got {self.low} and {self.high}"
            )
        if min(self.rate, self.first, self.later) <= 0:
            raise TrainingError(
                f"rate and concentrations must be positive, got {self.rate}, {self.first}, {self.later}"
            )

    def draw(self, num_frames: int, num_patches: int, generator: torch.Generator) -> list[int]:
        """Patches of every frame, of `num_patches`; each frame gets one at least."""
        # The exponential's inverse distribution function, between the bounds.
        tail = math.exp(-self.rate * (self.high - self.low))
        mean = self.low - math.log1p(-uniform(generator, 0, 1) * (1 - tail)) / self.rate
        alpha = torch.full((num_frames,), self.later, dtype=torch.float64)
        alpha[0] = self.first
        shares = torch._standard_gamma(alpha, generator=generator)  # normalised: a Dirichlet
        ratios = (shares / shares.sum() * num_frames * mean).clamp(1e-9, 1)
        return frame_caps(ratios.tolist(), num_frames, num_patches)
