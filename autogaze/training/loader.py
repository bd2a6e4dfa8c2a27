"""In which order clips are learned from, and how they come there.

Position p of training, counted over all steps and processes, is clip p mod N of the
permutation of epoch p div N, which follows from the seed. So any step can be prepared
by itself: a resumed training, or one with another number of processes, goes on with
the very clips that the uninterrupted one would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from autogaze.datasets.clip import (
    ClipBatch,
    ClipKey,
    TrainingClip,
    UnreadableClip,
    collate,
)
from autogaze.utils.seeding import seeded

# When something is drawn: all random numbers of training follow from it.


@dataclass(frozen=True)
class Moment:
    """A step of training, or of validation.

    Attributes:
        seed: of the training.
        step: from 0; validation has the same draws whenever it is made.
        temperature: at which gazes are sampled.
        training: else this is validation.
    """

    seed: int
    step: int
    temperature: float = 1.0
    training: bool = True

    def generator(self, purpose: str, *parts: int) -> torch.Generator:
        """Randomness for one purpose and, as `parts`, one clip of the batch, one row of it."""
        phase = ("train", self.step) if self.training else ("val",)
        return seeded(purpose, self.seed, *phase, *parts)

    def seed_of(self, purpose: str, *parts: int) -> int:
        """The same as a number."""
        return self.generator(purpose, *parts).initial_seed()


@dataclass(frozen=True)
class TrainingData:
    """Clips to learn from and to validate on.

    Args:
        max_unreadable: share of the clips that may turn out unreadable.
    """

    train: Dataset
    val: Dataset | None = None
    max_unreadable: float = 0.05


class Place(NamedTuple):
    """A clip of a step: its place in the whole batch, and which clip it is."""

    place: int
    key: ClipKey


@dataclass(frozen=True)
class PlacedBatch:
    """Clips of one micro-batch.

    Attributes:
        clips: those that could be read.
        places: where each of them stands in the whole batch; what is random about a
            clip follows from it, so it is the same however the batch is divided.
    """

    clips: ClipBatch
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.places)

    def pin_memory(self) -> "PlacedBatch":
        """For `DataLoader(pin_memory=True)`."""
        return replace(self, clips=self.clips.pin_memory())


@lru_cache(maxsize=4)
def _order(num_clips: int, seed: int, epoch: int) -> Int[Tensor, " N"]:
    return torch.randperm(num_clips, generator=seeded("order", seed, epoch))


def step_places(step: int, batch_size: int, num_clips: int, seed: int) -> list[Place]:
    """The whole batch of a step."""
    places = []
    for place in range(batch_size):
        epoch, position = divmod(step * batch_size + place, num_clips)
        number = int(_order(num_clips, seed, epoch)[position])
        places.append(Place(place, ClipKey(epoch, number)))
    return places


class StepSampler(Sampler[list[Place]]):
    """Micro-batches of one process: `micro_batches` lists a step, for steps [first, last).

    Args:
        num_clips: of the dataset.
        batch_size: of all processes together.
        micro_batch: clips at most that are looked at together.
        process, num_processes: a process takes one contiguous slice of every batch.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        micro_batch: int,
        seed: int,
        *,
        first: int,
        last: int,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.num_clips, self.batch_size, self.seed = num_clips, batch_size, seed
        self.first, self.last = first, last
        size = batch_size // num_processes
        start = process * size
        self.slices = [
            slice(start + low, start + min(low + micro_batch, size))
            for low in range(0, size, micro_batch)
        ]

    @property
    def micro_batches(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first, self.last):
            places = step_places(step, self.batch_size, self.num_clips, self.seed)
            for part in self.slices:
                yield places[part]

    def __len__(self) -> int:
        return (self.last - self.first) * self.micro_batches


class ListSampler(Sampler[list[Place]]):
    """Given micro-batches: for validation."""

    def __init__(self, micro_batches: list[list[Place]]) -> None:
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[list[Place]]:
        return iter(self.micro_batches)

    def __len__(self) -> int:
        return len(self.micro_batches)


class _Placed(Dataset):
    """A dataset whose items know their places."""

    def __init__(self, inner: Dataset) -> None:
        self.inner = inner

    def __getitem__(self, item: Place) -> tuple[int, TrainingClip | UnreadableClip]:
        return item.place, self.inner[item.key]


def _collate(items: list[tuple[int, TrainingClip | UnreadableClip]]) -> PlacedBatch:
    places = tuple(place for place, clip in items if isinstance(clip, TrainingClip))
    return PlacedBatch(collate([clip for _, clip in items]), places)


def make_loader(
    dataset: Dataset, sampler: Sampler[list[Place]], num_workers: int, *, pin_memory: bool = False
) -> DataLoader:
    """Micro-batches, decoded ahead by `num_workers` processes (0: by this one)."""
    return DataLoader(
        _Placed(dataset),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        prefetch_factor=2 if num_workers else None,
    )
