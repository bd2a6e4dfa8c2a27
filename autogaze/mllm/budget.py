"""Budgets of units: a cap per tubelet, a loss to stop at, or a number for a whole prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from autogaze.clips import check_loss
from autogaze.errors import MLLMError
from autogaze.mllm.checks import as_count
from autogaze.mllm.ranking import RankedUnits, check_unit_ratio
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.selectors.base import Selector

MOST = 4
"""How many times the even share a tubelet may ask for under `max_units`."""


@dataclass(frozen=True)
class Budget:
    """How many units a prompt may keep.

    Args:
        ratio: cap per tubelet, as a share of its dense units, in (0, 1].
        loss: frames stop at this loss, in units of the selector's metric.
        max_units: for all videos of a prompt together; never more are kept. What tubelets need is
            what the selector chooses of them until its loss (`loss`, else its default) or its
            own threshold is met, at most `MOST` times the even share. If all need more than
            `max_units`, each keeps the same share of its need, the first chosen; if they need
            less, less is kept.

    Raises:
        MLLMError: a ratio outside (0, 1], or no whole number of units of at least 1.
        SelectorError: a loss below 0 or not finite.
    """

    ratio: float | None = None
    loss: float | None = None
    max_units: int | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            check_unit_ratio(self.ratio)
        if self.loss is not None:
            check_loss(self.loss)
        if self.max_units is not None:
            object.__setattr__(self, "max_units", as_count(self.max_units, "max_units"))

    def settings(
        self, grids: Sequence[UnitGrid], selector: Selector
    ) -> tuple[float | None, float | None]:
        """The ratio and loss to select with in videos of these grids (`select_units`)."""
        if self.max_units is None:
            return self.ratio, self.loss
        dense = sum(grid.tubelets * grid.dense_units for grid in grids)
        most = min(1.0, MOST * self.max_units / dense)
        ratio = most if self.ratio is None else min(self.ratio, most)
        loss = self.loss
        if loss is None and selector.metric is not None:
            loss = selector.default_loss
        return ratio, loss

    def keep(self, chosen: Sequence[RankedUnits]) -> list[KeptUnits]:
        """What is kept of the units that were chosen of every video of a prompt.

        Raises:
            MLLMError: fewer units than videos, of which each keeps at least one.
        """
        kept = [units.capped(self.ratio) for units in chosen]
        if self.max_units is None or sum(units.num_units for units in kept) <= self.max_units:
            return kept
        if self.max_units < len(chosen):
            raise MLLMError(
                f"max_units={self.max_units} is less than one unit for each of {len(chosen)} videos"
            )
        # Each video has one unit, and its share of the rest.
        needs = [units.num_units - 1 for units in kept]
        totals = [1 + share for share in shares(needs, self.max_units - len(kept))]
        return [
            units.first(shares(own.lengths, total))
            for units, own, total in zip(chosen, kept, totals, strict=True)
        ]


def shares(needs: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to needs, none above its own, that count `total` exactly.

    The needs themselves where they count less than `total`.
    """
    everything = sum(needs)
    if everything <= total:
        return list(needs)
    # Differences of a running sum, rounded down, are off by less than one and leave nothing over.
    edges = [before * total // everything for before in accumulate(needs, initial=0)]
    return [after - before for before, after in pairwise(edges)]
