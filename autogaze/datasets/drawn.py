"""Base classes of synthetic clips, drawn from photographs or procedurally: no videos are needed.

A clip is determined by the seed, the epoch and its number.
"""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.labels import LabelFile, short_name
from autogaze.datasets.video_windows import find_files
from autogaze.errors import TrainingError, VideoError
from autogaze.utils.seeding import seeded
from autogaze.video.stills import read_first

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class DrawnClips(NamedClips):
    """Base of the datasets of drawn clips.

    Args:
        num_clips: per epoch.
        settings: how clips are drawn, a `settings_kind`; by default one without arguments.
        sources: names of the files that clips are drawn from.
        seed: of the random numbers.
        fixed: the same clips in every epoch.
        labels: gaze labels; only labelled clips are in the dataset, the same in every epoch.

    Raises:
        TrainingError: no clips, or labels of others.
    """

    kind: str
    """Name of the dataset in seeds."""
    settings_kind: type[Any]
    """Dataclass of the settings, with `clip_len`."""

    def __init__(
        self,
        num_clips: int,
        settings: Any = None,
        *,
        sources: Sequence[str] = (),
        seed: int = 0,
        fixed: bool = False,
        labels: LabelFile | None = None,
    ) -> None:
        if num_clips < 1:
            raise TrainingError(f"num_clips must be at least 1, got {num_clips}")
        self.settings = self.settings_kind() if settings is None else settings
        self.seed = seed
        self.fixed = fixed or labels is not None
        self.labels = labels
        # Part of the clips' names: all that they depend on besides epoch and number.
        origin = repr((self.kind, seed, self.settings, *sources)).encode(errors="surrogateescape")
        self.digest = hashlib.blake2b(origin, digest_size=4).hexdigest()
        self.numbers: Sequence[int] = range(num_clips)
        if labels is not None:
            names = [self.name(number) for number in range(num_clips)]
            self.numbers, self.coverage = labels.choose(names, self.settings.clip_len)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = ClipKey.of(key)
        epoch, number = 0 if self.fixed else epoch, self.numbers[index]
        frames = self.draw(number, seeded(self.kind, self.seed, epoch, number))
        if isinstance(frames, UnreadableClip):
            return frames
        name = self.name(number, epoch)
        return TrainingClip(frames, name, None if self.labels is None else self.labels[name])

    def name(self, number: int, epoch: int = 0) -> str:
        """Name of a clip: its source, a digest of seed and settings, its epoch and number."""
        return f"{self.source(number)}#{self.digest}-{epoch}-{number}"

    @abstractmethod
    def source(self, number: int) -> str:
        """Readable name of what a clip is drawn from."""

    @abstractmethod
    def draw(
        self, number: int, generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"] | UnreadableClip:
        """The frames of a clip."""


class PictureClips(DrawnClips):
    """Base of the datasets of clips that are made of photographs.

    Args:
        roots: folders of pictures, searched recursively.
        clips_per_picture: clips per picture and epoch.
        settings, seed, fixed, labels: see `DrawnClips`.
        cache: decode all pictures now and keep them in memory.

    Raises:
        TrainingError: no pictures, or labels of other clips.
    """

    def __init__(
        self,
        roots: Sequence[str | Path],
        settings: Any = None,
        *,
        clips_per_picture: int = 1,
        seed: int = 0,
        fixed: bool = False,
        labels: LabelFile | None = None,
        cache: bool = False,
    ) -> None:
        self.paths = find_files(roots, PICTURES)
        if not self.paths:
            places = ", ".join(map(str, roots))
            raise TrainingError(f"no pictures ({' '.join(PICTURES)}) in {places or 'no folder'}")
        super().__init__(
            len(self.paths) * clips_per_picture,
            settings,
            sources=[short_name(path) for path in self.paths],
            seed=seed,
            fixed=fixed,
            labels=labels,
        )
        self.cached: list[UInt8[Tensor, "3 _ _"] | UnreadableClip] = []
        if cache:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                self.cached = list(threads.map(_read, self.paths))

    def source(self, number: int) -> str:
        """The photograph of a clip."""
        return short_name(self.paths[number % len(self.paths)])

    def draw(
        self, number: int, generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"] | UnreadableClip:
        pictures = []
        for index in (number % len(self.paths), *self.others(generator)):
            picture = self.cached[index] if self.cached else _read(self.paths[index])
            if isinstance(picture, UnreadableClip):
                return picture
            pictures.append(picture)
        return self.make(pictures, generator)

    def others(self, generator: torch.Generator) -> Sequence[int]:
        """Indices of the further photographs in a clip."""
        return ()

    @abstractmethod
    def make(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"]:
        """The frames, from the clip's photograph and those of `others`."""


def _read(path: Path) -> UInt8[Tensor, "3 H W"] | UnreadableClip:
    """A photograph's pixels, or why it has none."""
    try:
        return torch.from_numpy(read_first(path)).permute(2, 0, 1)
    except (VideoError, OSError) as error:
        return UnreadableClip(short_name(path), str(error))
