"""Clips of real videos in folders, as users of AutoGaze lay them out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.decoding import Decoder, FileFootage, Footage, Window, choose_decoder, hold
from autogaze.datasets.labels import LabelFile, window_name
from autogaze.errors import TrainingError, VideoError
from autogaze.utils.seeding import seeded

# Finding training files, and what they are called in label files.


def find_files(roots: Sequence[str | Path], endings: Sequence[str]) -> list[Path]:
    """All files below the folders that end so, each once, sorted: numbers mean the same anywhere.

    Hidden files are left out: what is still being written, and what macOS lays beside files.
    """
    found = {
        path
        for root in roots
        for path in Path(root).rglob("*")
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
    }
    return sorted(found)


def short_name(path: Path) -> str:
    """The last three parts of a path, `dataset/split/file.mp4`: a clip's name in label files.

    Of the whole path, so that it is the same from whichever folder a program is started.
    """
    return "/".join(Path(os.path.abspath(path)).parts[-3:])


VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")


class VideoClip(NamedTuple):
    """A clip of a video, by its first frame."""

    path: Path
    start: int = 0

    @property
    def name(self) -> str:
        """In label files."""
        return window_name(short_name(self.path), self.start)


class VideoClips(NamedClips):
    """Some clips of videos.

    Args:
        clips: where they start; if the window is random they start anywhere.
        window: how they are cut.
        side: pixels of a clip's frames: the shorter side is resized to it, the middle cut out.
        augmentation: changes of the clips.
        labels: of all of them.
        seed: of everything drawn.
        decoder: reads the files; see `choose_decoder`.
        cache: decode all videos now and keep them in memory, 3 * side^2 bytes a frame.
    """

    def __init__(
        self,
        clips: Sequence[VideoClip],
        *,
        window: Window,
        side: int,
        decoder: Decoder,
        augmentation: Augmentation | None = None,
        labels: LabelFile | None = None,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        self.clips = clips
        self.window = window
        self.side = side
        self.decoder = decoder
        self.augmentation = augmentation
        self.labels = labels
        self.seed = seed
        paths = list(dict.fromkeys(clip.path for clip in clips))
        self.held = hold(paths, side, decoder) if cache else {}

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, number: int) -> str:
        """Of a clip, in label files."""
        return self.clips[number].name

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = ClipKey.of(key)
        clip = self.clips[index]
        generator = seeded("video", self.seed, epoch, index)
        try:
            footage = self.held.get(clip.path) or FileFootage(clip.path, self.side, self.decoder)
            frames = footage.clip(_start(footage, clip.start, self.window, generator), self.window)
        except (VideoError, OSError) as error:
            return UnreadableClip(clip.name, str(error))
        if self.augmentation is not None:
            frames = augment(frames, self.augmentation, generator)
        labels = None if self.labels is None else self.labels[clip.name]
        return TrainingClip(frames, clip.name, labels)


class VideoFolder(VideoClips):
    """Videos below `root/<split>/` of several roots.

    Args:
        roots: folders that hold `train/` and `val/`.
        split: which of them.
        window: how clips are cut; the first of every video by default.
        side: pixels of a clip's frames: the shorter side is resized to it, the middle cut out.
        augmentation: of training clips; labelled ones may not be augmented.
        labels: gaze labels; the labelled clips, and no others, are used.
        seed: of everything drawn.
        decoder: `pyav`, `opencv`, or `auto`, PyAV where it is installed.
        cache: decode all videos now and keep them in memory, 3 * side^2 bytes a frame.

    Raises:
        TrainingError: no videos, labels for other videos or clips of another length, or
            labels with random windows or augmentation.
    """

    def __init__(
        self,
        roots: Sequence[str | Path],
        split: str = "train",
        *,
        window: Window | None = None,
        side: int = 224,
        augmentation: Augmentation | None = None,
        labels: LabelFile | None = None,
        seed: int = 0,
        decoder: str = "auto",
        cache: bool = False,
    ) -> None:
        window = window or Window()
        folders = [Path(root) / split for root in roots]
        paths = find_files([folder for folder in folders if folder.is_dir()], VIDEOS)
        if not paths:
            places = ", ".join(str(folder) for folder in folders)
            raise TrainingError(f"no videos ({' '.join(VIDEOS)}) in {places or 'no folder'}")
        chosen = choose_decoder(decoder)
        if labels is None:
            clips = find_windows(paths, window, chosen)
        elif window.random or augmentation is not None:
            raise TrainingError(
                "gaze labels belong to fixed clips: use dataset.random_sample_frame=False "
                "and no augmentation with them"
            )
        else:
            clips = _labelled(paths, window, labels)
            names = [short_name(path) for path in paths]
            self.coverage = labels.coverage(names, [short_name(clip.path) for clip in clips])
        super().__init__(
            clips,
            window=window,
            side=side,
            decoder=chosen,
            augmentation=augmentation,
            labels=labels,
            seed=seed,
            cache=cache,
        )


def _labelled(paths: Sequence[Path], window: Window, labels: LabelFile) -> list[VideoClip]:
    """The labelled clips of videos, as the file has them: no video need be opened."""
    names = [short_name(path) for path in paths]
    clips = [
        VideoClip(path, start)
        for path, name in zip(paths, names, strict=True)
        for start in labels.starts(name)
    ]
    if not clips:
        raise labels.none_of(names)
    known: dict[str, Path] = {}
    for clip in clips:
        name = short_name(clip.path)
        if known.setdefault(name, clip.path) != clip.path:
            raise TrainingError(
                f"{labels.path} labels {name}, which is the name of {known[name]} and of "
                f"{clip.path}: rename one of their folders, and label again"
            )
    labels.check_length((clip.name for clip in clips), window.clip_len)
    return clips


def find_windows(paths: Sequence[Path], window: Window, decoder: Decoder) -> list[VideoClip]:
    """The clips that videos give: one each, or all that lie side by side.

    How many lie in a video its header tells, or, where it does not, a look at all its frames.
    One that cannot be read gives one clip, so that reading tells why.
    """
    if not window.every:
        return [VideoClip(path) for path in paths]
    clips = []
    for path in paths:
        try:
            video = decoder(path)
            num_frames = video.num_frames or sum(1 for _ in video.frames())
        except (VideoError, OSError):
            num_frames = 0
        clips += [VideoClip(path, start) for start in window.starts(num_frames)]
    return clips


def read_window(
    path: Path,
    window: Window,
    side: int,
    generator: torch.Generator,
    decoder: Decoder | None = None,
) -> UInt8[Tensor, "T 3 S S"]:
    """The frames of one clip; a video that is too short shows its last frame on.

    Raises:
        VideoError: the file cannot be read, or has no frames.
    """
    footage = FileFootage(path, side, decoder or choose_decoder())
    return footage.clip(_start(footage, 0, window, generator), window)


def _start(footage: Footage, start: int, window: Window, generator: torch.Generator) -> int:
    """The first frame of a clip: the given one, or one that is drawn."""
    if window.random and footage.num_frames:
        return window.draw(footage.num_frames, generator)
    return start
