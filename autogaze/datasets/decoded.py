"""Clips decoded once into safetensors files, for machines that cannot decode videos.

A file holds `frames`, (N, T, 3, S, S) uint8, and its metadata the clips' names. Files are
mapped into memory, so only the clips that are read take any.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, TrainingClip
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.seeds import seeded
from autogaze.errors import TrainingError
from autogaze.files import replacing


def save_decoded(clips: Iterable[TrainingClip], path: str | Path) -> int:
    """Write clips of one length and size to a file; returns how many there were."""
    kept = list(clips)
    if not kept:
        raise TrainingError(f"{path}: no clips to write")
    frames = torch.stack([clip.frames for clip in kept])
    names = json.dumps([clip.name for clip in kept])
    with replacing(Path(path)) as temporary:
        save_file({"frames": frames}, temporary, metadata={"names": names})
    return len(kept)


class DecodedClips(Dataset):
    """Clips of files that `save_decoded` wrote.

    Raises:
        TrainingError: no files, or files of another form.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        augmentation: Augmentation | None = None,
        labels: LabelFile | None = None,
        seed: int = 0,
    ) -> None:
        self.augmentation = augmentation
        self.labels = labels
        self.seed = seed
        self.clips: list[tuple[Path, int, str]] = []
        for path in map(Path, paths):
            for row, name in enumerate(_names(path)):
                if labels is None or name in labels:
                    self.clips.append((path, row, name))
        if not self.clips:
            raise TrainingError(f"no clips in {', '.join(map(str, paths)) or 'no file'}")

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip:
        epoch, index = key if isinstance(key, tuple) else ClipKey(0, key)
        path, row, name = self.clips[index]
        with safe_open(path, "pt") as file:
            frames = file.get_slice("frames")[row]
        if self.augmentation is not None:
            frames = augment(frames, self.augmentation, seeded("decoded", self.seed, epoch, index))
        return TrainingClip(frames, name, None if self.labels is None else self.labels[name])


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shape = file.get_slice("frames").get_shape()
            names = json.loads(metadata["names"])
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file of decoded clips") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: not a file of decoded clips: {error}") from error
    if len(shape) != 5 or len(names) != shape[0]:
        raise TrainingError(f"{path}: holds frames {tuple(shape)} and {len(names)} names")
    return names
