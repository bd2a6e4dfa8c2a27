"""Mixtures of datasets, each with its share of the clips."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.errors import TrainingError
from autogaze.utils.seeding import seeded


class MixedClips(Dataset):
    """Clips of several datasets, in fixed shares and evenly interleaved.

    Each dataset's order is drawn anew in every epoch. No clip comes twice before all of its
    dataset came once; a clip that is repeated in an epoch has new random parts (another
    window, another camera path).

    Args:
        datasets: indexed by `ClipKey`.
        weights: shares, of any sum; the datasets' sizes by default, so that an epoch
            holds every clip once.
        num_clips: per epoch; all datasets' clips together by default.
        seed: of the orders.

    Raises:
        TrainingError: no datasets, weights that do not fit, or an empty dataset with a share.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        *,
        num_clips: int | None = None,
        seed: int = 0,
    ) -> None:
        sizes = [len(dataset) for dataset in datasets]  # type: ignore[arg-type]
        weights = sizes if weights is None else weights
        if len(weights) != len(datasets) or min(weights, default=0) < 0 or not sum(weights) > 0:
            raise TrainingError(
                f"a mixture needs one weight for each dataset, none negative and one at least "
                f"positive; got {len(datasets)} datasets and weights {list(weights)}"
            )
        self.datasets = datasets
        self.sizes = sizes
        self.seed = seed
        self.counts = _shares(weights, sum(sizes) if num_clips is None else num_clips)
        for dataset, size, count in zip(datasets, sizes, self.counts, strict=True):
            if count and not size:
                raise TrainingError(f"{type(dataset).__name__} has a share, but no clips")
        self.order = _spread(self.counts)

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        which, inner = self.locate(ClipKey.of(key))
        return self.datasets[which][inner]

    def locate(self, key: ClipKey) -> tuple[int, ClipKey]:
        """Index of the dataset, and the key of the clip in it."""
        if not 0 <= key.number < len(self):
            raise IndexError(f"clip {key.number} of {len(self)}")
        which, place = self.order[key.number].tolist()
        size, count = self.sizes[which], self.counts[which]
        turn, place = divmod(place, size)
        order = _order(f"{self.seed}/{which}/{key.epoch}/{turn}", size)
        turns = -(-count // size)
        return which, ClipKey(key.epoch * turns + turn, int(order[place]))


def _spread(counts: Sequence[int]) -> Int[Tensor, "N 2"]:
    """For each clip of an epoch: its dataset, and its position among that dataset's clips."""
    which = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    place = torch.cat([torch.arange(count) for count in counts])
    when = torch.cat([(torch.arange(count) + 0.5).double() / max(1, count) for count in counts])
    return torch.stack([which, place], 1)[when.argsort(stable=True)]


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Integers that add up to `total`, rounded by largest remainder."""
    wanted = [weight / sum(weights) * total for weight in weights]
    counts = [int(count) for count in wanted]
    by_rest = sorted(range(len(counts)), key=lambda i: (counts[i] - wanted[i], i))
    for place in by_rest[: total - sum(counts)]:
        counts[place] += 1
    return counts


@lru_cache(maxsize=32)
def _order(purpose: str, size: int) -> Int[Tensor, " size"]:
    return torch.randperm(size, generator=seeded("mixture", purpose))
