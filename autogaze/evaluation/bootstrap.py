"""Means over clips and their 95 % intervals, from resampling whole videos with replacement.

What is uncertain is which videos (or photographs) were taken; clips of one source are too
alike to be drawn by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.utils.seeding import numpy_seed

RESAMPLES = 2000

ALL = "all"
"""The group of all clips, in which every kind counts the same."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and the ends of its 95 % interval; None where there are too few videos for one."""

    mean: float
    low: float | None
    high: float | None

    def brackets(self, show: Callable[[float], str], between: str = "..") -> str:
        """The interval in brackets, with ends as `show` writes them; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f" ({show(self.low)}{between}{show(self.high)})"


def estimate(values: Tensor, video: Int[Tensor, " n"]) -> Estimate:
    """Mean and interval of `values`, each of which belongs to a video."""
    values_np = values.double().numpy()
    _, which = np.unique(video.numpy(), return_inverse=True)
    sums, counts = np.bincount(which, values_np), np.bincount(which)
    mean = float(values_np.mean())
    if len(sums) < 2:
        return Estimate(mean, None, None)
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return Estimate(mean, float(low), float(high))


@dataclass(frozen=True, eq=False)
class Resamples:
    """Draws of clips, the same for all figures, so that differences are paired.

    Arrays named `R` have a figure for the clips as they are in place 0, then one per draw;
    `interval` makes an estimate of them.

    Attributes:
        counts: (1 + draws, N) how often each clip's source was drawn; ones in row 0.
        kinds: name of every kind -> (N,) which clips are of it.
        sure: kinds with clips of two sources or more, which have intervals.
    """

    counts: Float[np.ndarray, "R N"]
    kinds: dict[str, Bool[np.ndarray, " N"]]
    sure: frozenset[str]

    @classmethod
    def draw(
        cls, sources: Sequence[str], kinds: Sequence[str], seed: int = 0, draws: int = RESAMPLES
    ) -> "Resamples":
        """Draw as many sources as there are, each with all its clips.

        Sources that serve the same kinds are drawn among themselves: videos among videos,
        photographs among photographs.

        Args:
            sources, kinds: of N clips.
        """
        rng = np.random.default_rng(numpy_seed(seed))
        pairs = set(zip(sources, kinds, strict=True))
        names = sorted(set(sources))
        serves = {name: tuple(sorted(k for s, k in pairs if s == name)) for name in names}
        drawn = np.ones((1 + draws, len(names)))
        for served in sorted(set(serves.values())):
            members = [place for place, name in enumerate(names) if serves[name] == served]
            each = [1 / len(members)] * len(members)
            drawn[1:, members] = rng.multinomial(len(members), each, size=draws)
        order = list(dict.fromkeys(kinds))
        return cls(
            drawn[:, [names.index(source) for source in sources]],
            {kind: np.array([other == kind for other in kinds]) for kind in order},
            frozenset(kind for kind in order if sum(k == kind for _, k in pairs) > 1),
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """`ALL`, and the kinds if there are several."""
        return (ALL, *(self.kinds if len(self.kinds) > 1 else ()))

    def means(self, values: Float[np.ndarray, "*any N"], group: str) -> Float[np.ndarray, "*any R"]:
        """Means over a group's clips, in every draw; of `ALL`, the mean of the kinds' means."""
        if group == ALL:
            return np.mean([self.means(values, kind) for kind in self.kinds], axis=0)
        counts = self.counts[:, self.kinds[group]]
        return values[..., self.kinds[group]] @ counts.T / counts.sum(1)

    def interval(self, figure: Float[np.ndarray, " R"], group: str) -> Estimate:
        """The figure and its 95 % interval; without one where a kind has a single source."""
        if not self.sure.issuperset(self.kinds if group == ALL else (group,)):
            return Estimate(float(figure[0]), None, None)
        # Not interpolated: a figure may be infinite in some draws.
        low, high = np.percentile(figure[1:], [2.5, 97.5], method="nearest")
        return Estimate(float(figure[0]), float(low), float(high))


def share_reaching(
    target: Float[np.ndarray, " R"],
    shares: Float[np.ndarray, " budgets"],
    losses: Float[np.ndarray, "budgets R"],
) -> Float[np.ndarray, " R"]:
    """The share of patches at which a curve comes down to a loss.

    Between the first budget that is good enough and the one before it, loss is a power of
    share: a straight line where both axes are logarithmic.

    Args:
        shares: of patches taken, growing from budget to budget.
        losses: at each.

    Returns:
        The share; 0 where the smallest budget is good enough already, infinity where
        none is.
    """
    enough = losses <= target
    first = enough.argmax(0)
    column = np.arange(losses.shape[1])
    before = np.maximum(first - 1, 0)
    above, below = _log(losses[before, column]), _log(losses[first, column])
    part = (above - _log(target)) / np.where(above > below, above - below, 1)
    low, high = _log(shares[before]), _log(shares[first])
    found = np.exp(low + part * (high - low))
    return np.where(enough.any(0), np.where(first == 0, 0.0, found), np.inf)


def loss_at(
    share: float, shares: Float[np.ndarray, " budgets"], losses: Float[np.ndarray, "budgets R"]
) -> Float[np.ndarray, " R"] | None:
    """The loss of a curve at a share, interpolated likewise; None beyond its ends."""
    after = int((shares >= share - 1e-9).argmax())
    if abs(shares[after] - share) < 1e-9:
        return losses[after]
    if after == 0:
        return None
    low, high = np.log(shares[after - 1 : after + 1])
    above, below = _log(losses[after - 1 : after + 1])
    return np.exp(above + (np.log(share) - low) / (high - low) * (below - above))


def _log(values: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """With a loss of zero counted as next to nothing."""
    return np.log(np.maximum(values, 1e-12))
