"""Clips that are made of photographs."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.clip import UnreadableClip
from autogaze.datasets.drawn import DrawnClips
from autogaze.datasets.files import find_files, short_name
from autogaze.datasets.labels import LabelFile
from autogaze.errors import TrainingError, VideoError
from autogaze.video.stills import read_still

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@runtime_checkable
class ClipSettings(Protocol):
    """How clips are made."""

    @property
    def clip_len(self) -> int:
        """Frames of a clip."""


Settings = TypeVar("Settings", bound=ClipSettings)


class PictureClips(DrawnClips, Generic[Settings]):
    """What datasets of photographs share.

    Args:
        roots: folders of pictures, searched to the bottom.
        settings: how clips are made.
        clips_a_picture: clips that an epoch makes of each.
        seed: of what is drawn.
        fixed: the same clips in every epoch.
        labels: gaze labels; only labelled clips are given, the same in every epoch.
        cache: decode all pictures now and keep them in memory.

    Raises:
        TrainingError: no pictures, or labels of other clips.
    """

    settings_kind: type[Settings]

    def __init__(
        self,
        roots: Sequence[str | Path],
        settings: Settings | None = None,
        *,
        clips_a_picture: int = 1,
        seed: int = 0,
        fixed: bool = False,
        labels: LabelFile | None = None,
        cache: bool = False,
    ) -> None:
        self.settings = self.settings_kind() if settings is None else settings
        self.paths = find_files(roots, PICTURES)
        if not self.paths:
            places = ", ".join(str(root) for root in roots)
            raise TrainingError(f"no pictures ({' '.join(PICTURES)}) in {places or 'no folder'}")
        super().__init__(
            len(self.paths) * clips_a_picture,
            self.settings.clip_len,
            [self.settings, *map(short_name, self.paths)],
            seed=seed,
            fixed=fixed,
            labels=labels,
        )
        self.held: list[UInt8[Tensor, "3 _ _"] | UnreadableClip] = []
        if cache:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                self.held = list(threads.map(read_picture, self.paths))

    def shows(self, number: int) -> str:
        """The photograph of a clip."""
        return short_name(self.paths[number % len(self.paths)])

    def draw(
        self, number: int, generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"] | UnreadableClip:
        """See `DrawnClips`."""
        pictures = []
        for place in (number % len(self.paths), *self.others(generator)):
            picture = self.held[place] if self.held else read_picture(self.paths[place])
            if isinstance(picture, UnreadableClip):
                return picture
            pictures.append(picture)
        return self.make(pictures, generator)

    def others(self, generator: torch.Generator) -> Sequence[int]:
        """Places of further photographs that the clip shows."""
        return ()

    @abstractmethod
    def make(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"]:
        """The frames, of the clip's photograph and the further ones."""


def read_picture(path: Path) -> UInt8[Tensor, "3 H W"] | UnreadableClip:
    """A photograph's pixels, or why it has none."""
    try:
        return torch.from_numpy(read_still(path)).permute(2, 0, 1)
    except (VideoError, OSError) as error:
        return UnreadableClip(short_name(path), str(error))
