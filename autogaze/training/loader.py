"""Batches of clips: their order, their random numbers, and clips that cannot be read.

Clip p of training, counted over all steps and processes, is number p mod N of the permutation
of epoch p div N, which follows from the seed. So any step can be prepared by itself: a resumed
training, or one with another number of processes, sees the clips of the uninterrupted one.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autogaze.datasets.clip import ClipBatch, ClipKey, TrainingClip, UnreadableClip, collate
from autogaze.errors import TrainingError
from autogaze.labelling.label import with_labels
from autogaze.utils.seeding import seeded

log = logging.getLogger("autogaze.training")


@dataclass(frozen=True)
class StepContext:
    """What all random numbers of a training step, or of validation, follow from.

    Attributes:
        step: from 0; validation draws the same numbers at every step.
        temperature: of sampled gazes.
        training: False in validation.
    """

    seed: int
    step: int
    temperature: float = 1.0
    training: bool = True

    def generator(self, purpose: str, *parts: int) -> torch.Generator:
        """Random numbers for one purpose and, as `parts`, one clip of the batch or row of it."""
        phase = ("train", self.step) if self.training else ("val",)
        return seeded(purpose, self.seed, *phase, *parts)

    def seed_of(self, purpose: str, *parts: int) -> int:
        """The same as a number."""
        return self.generator(purpose, *parts).initial_seed()


@dataclass(frozen=True)
class TrainingData:
    """Clips to train and to validate on.

    Args:
        max_unreadable: share of the clips that may turn out unreadable.
    """

    train: Dataset
    val: Dataset | None = None
    max_unreadable: float = 0.05


@dataclass(frozen=True)
class BatchItem:
    """A clip of a batch: its index in the whole batch, and its key in the dataset."""

    index: int
    key: ClipKey


@lru_cache(maxsize=4)
def _order(num_clips: int, seed: int, epoch: int) -> Int[Tensor, " N"]:
    return torch.randperm(num_clips, generator=seeded("order", seed, epoch))


def batch_items(step: int, batch_size: int, num_clips: int, seed: int) -> list[BatchItem]:
    """The whole batch of a step."""
    items = []
    for index in range(batch_size):
        epoch, position = divmod(step * batch_size + index, num_clips)
        number = int(_order(num_clips, seed, epoch)[position])
        items.append(BatchItem(index, ClipKey(epoch, number)))
    return items


class StepSampler:
    """Micro-batches of one process: `micro_batches` lists per step, for steps [first, last).

    Args:
        num_clips: of the dataset.
        batch_size: of all processes together.
        micro_batch: clips per forward pass, at most.
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

    def __iter__(self) -> Iterator[list[BatchItem]]:
        for step in range(self.first, self.last):
            items = batch_items(step, self.batch_size, self.num_clips, self.seed)
            for part in self.slices:
                yield items[part]

    def __len__(self) -> int:
        return (self.last - self.first) * self.micro_batches


class _Indexed(Dataset):
    """A dataset whose items carry their index in the batch."""

    def __init__(self, inner: Dataset) -> None:
        self.inner = inner

    def __getitem__(self, item: BatchItem) -> tuple[int, TrainingClip | UnreadableClip]:
        return item.index, self.inner[item.key]


def _collate(items: list[tuple[int, TrainingClip | UnreadableClip]]) -> ClipBatch:
    indices, clips = zip(*items, strict=True)
    return collate(clips, indices)


def _collate_and_label(items: list[tuple[int, TrainingClip | UnreadableClip]]) -> ClipBatch:
    return with_labels(_collate(items))


def make_loader(
    dataset: Dataset,
    micro_batches: Iterable[list[BatchItem]],
    num_workers: int,
    *,
    device: torch.device | str = "cpu",
) -> DataLoader:
    """Micro-batches, decoded ahead by `num_workers` processes (0: by this one).

    Clips that ask for labels get them all at once, batch by batch: by the process that decodes them
    or, for a GPU, by whoever moves the batch there (`with_labels`).

    Args:
        device: that batches are for.
    """
    on_gpu = torch.device(device).type == "cuda"
    return DataLoader(
        _Indexed(dataset),
        batch_sampler=micro_batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_collate if on_gpu else _collate_and_label,
        pin_memory=on_gpu,
        prefetch_factor=2 if num_workers else None,
    )


# Clips that could not be read: named, counted, and too many of them end training.

MIN_SEEN = 200
"""Number of clips from which on the share of unreadable ones is meaningful."""


def report_unreadable(clips: Sequence[UnreadableClip], folder: Path) -> None:
    """Name unreadable clips in the log and in `unreadable.jsonl`."""
    if not clips:
        return
    for clip in clips:
        log.warning("skipped %s: %s", clip.name, clip.cause)
    try:
        with (folder / "unreadable.jsonl").open("a") as file:
            file.writelines(json.dumps(asdict(clip)) + "\n" for clip in clips)
    except OSError as error:
        log.error("%s: cannot be written: %s", folder / "unreadable.jsonl", error)


def check_unreadable(unreadable: int, seen: int, planned: int, most: float) -> None:
    """Raise TrainingError where too many clips were unreadable.

    Below `MIN_SEEN` clips, only where the share is exceeded even if all others up to there (or
    up to the end of training) can be read.
    """
    if unreadable > most * max(seen, min(MIN_SEEN, planned)):
        share = math.ceil(100 * unreadable / seen) / 100
        remedy = f", or set dataset.max_unreadable={share:g} to do without them"
        raise TrainingError(
            f"{unreadable} of {seen} clips could not be read, more than "
            f"dataset.max_unreadable={most:g} allows; unreadable.jsonl, in the folder of the "
            "experiment, lists them with the causes: repair or remove these files"
            + (remedy if unreadable < seen else "")
        )
