"""Clips that are drawn rather than read: others for every seed, epoch and number."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.labels import LabelFile
from autogaze.errors import TrainingError
from autogaze.utils.seeding import seeded


class DrawnClips(NamedClips):
    """What all of them share.

    Args:
        num_clips: of an epoch.
        clip_len: frames of a clip.
        recipe: everything that clips depend on besides the seed, the epoch and the number;
            names tell clips of different recipes apart.
        seed: of what is drawn.
        fixed: the same clips in every epoch.
        labels: gaze labels; only labelled clips are given, the same in every epoch.

    Raises:
        TrainingError: no clips, or labels of others.
    """

    kind: str
    """What it is called in seeds."""

    def __init__(
        self,
        num_clips: int,
        clip_len: int,
        recipe: Sequence[object],
        *,
        seed: int = 0,
        fixed: bool = False,
        labels: LabelFile | None = None,
    ) -> None:
        if num_clips < 1:
            raise TrainingError(f"an epoch must have one clip at least, got {num_clips}")
        self.num_clips = num_clips
        self.seed = seed
        self.fixed = fixed or labels is not None
        self.labels = labels
        parts = repr((self.kind, seed, *recipe)).encode()
        self.recipe = hashlib.blake2b(parts, digest_size=4).hexdigest()
        self.numbers: Sequence[int] = range(num_clips)
        if labels is not None:
            names = [self.name(number) for number in range(num_clips)]
            self.numbers = labels.choose(names, clip_len)
            self.coverage = labels.coverage(names, [names[number] for number in self.numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = ClipKey.of(key)
        number = index if self.labels is None else self.numbers[index]
        key = ClipKey(0 if self.fixed else epoch, number)
        frames = self.draw(number, seeded(self.kind, self.seed, *key))
        if isinstance(frames, UnreadableClip):
            return frames
        name = self.name(number, key.epoch)
        return TrainingClip(frames, name, None if self.labels is None else self.labels[name])

    def name(self, number: int, epoch: int = 0) -> str:
        """Of a clip: what it shows, then what makes it the same clip again."""
        return f"{self.shows(number)}#{self.recipe}-{epoch}-{number}"

    @abstractmethod
    def shows(self, number: int) -> str:
        """What a clip shows, for people."""

    @abstractmethod
    def draw(
        self, number: int, generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"] | UnreadableClip:
        """The frames of a clip."""
