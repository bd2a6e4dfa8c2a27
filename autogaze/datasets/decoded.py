"""Clips decoded beforehand into safetensors files, for machines that cannot decode videos.

A file holds `frames`, (N, T, 3, S, S) uint8, and the clips' names in its metadata. It is mapped
into memory and not compressed: 16 frames of 224 pixels are 2.4 MB.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autogaze.checks import why_absent
from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.labels import LabelFile
from autogaze.errors import TrainingError
from autogaze.utils.files import replacing
from autogaze.utils.seeding import seeded


def save_decoded(clips: Iterable[TrainingClip], path: str | Path) -> int:
    """Write clips of one length and size to a file; returns their number."""
    kept = list(clips)
    if not kept:
        raise TrainingError(f"{path}: no clips to write")
    frames = torch.stack([clip.frames for clip in kept])
    names = json.dumps([clip.name for clip in kept])
    with replacing(Path(path)) as temporary:
        save_file({"frames": frames}, temporary, metadata={"names": names})
    return len(kept)


class DecodedClips(NamedClips):
    """Clips of files that `save_decoded` wrote.

    Raises:
        TrainingError: no files, files of another form, labels for other clips, or labels
            with augmentation.
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
        self.headers = [_header(Path(path)) for path in paths]
        clips = [
            (header.path, row, name)
            for header in self.headers
            for row, name in enumerate(header.names)
        ]
        if not clips:
            raise TrainingError(f"no clips in {', '.join(map(str, paths)) or 'no file'}")
        if labels is not None:
            if augmentation is not None:
                raise TrainingError("gaze labels belong to fixed clips: use no augmentation")
            names = [name for _, _, name in clips]
            numbers, self.coverage = labels.choose(names, self.headers[0].shape[0])
            clips = [clips[number] for number in numbers]
        self.clips = clips

    def check_shape(self, clip_len: int, side: int) -> None:
        """Raise TrainingError unless all clips have this length and side."""
        for header in self.headers:
            if header.shape != (clip_len, 3, side, side):
                raise TrainingError(
                    f"{header.path}: clips of {header.shape[0]} frames of "
                    f"{header.shape[-1]} pixels, expected {clip_len} of {side}"
                )

    def name(self, number: int) -> str:
        """Name of a clip in label files."""
        return self.clips[number][2]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = ClipKey.of(key)
        path, row, name = self.clips[index]
        try:
            with safe_open(path, "pt") as file:
                frames = file.get_slice("frames")[row]
        except (OSError, SafetensorError) as error:  # it was whole when training began
            return UnreadableClip(name, f"{path}: cannot be read: {error}")
        if self.augmentation is not None:
            frames = augment(frames, self.augmentation, seeded("decoded", self.seed, epoch, index))
        return TrainingClip(frames, name, None if self.labels is None else self.labels[name])


class _Header(NamedTuple):
    """Path, names of the clips and their shape (T, 3, S, S), of one file."""

    path: Path
    names: list[str]
    shape: tuple[int, ...]


def _header(path: Path) -> _Header:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shape = file.get_slice("frames").get_shape()
            names = json.loads(metadata["names"])
    except FileNotFoundError:
        raise TrainingError(f"{path}: {why_absent(path, 'file of decoded clips')}") from None
    except (OSError, SafetensorError, LookupError, ValueError, TypeError) as error:
        raise TrainingError(f"{path}: not a file of decoded clips: {error}") from error
    if not isinstance(names, list) or len(shape) != 5 or len(names) != shape[0]:
        raise TrainingError(
            f"{path}: not a file of decoded clips: frames {tuple(shape)}, names {names!r:.80}"
        )
    return _Header(path, names, tuple(shape[1:]))
