"""Clips of video files, below folders with `train/` and `val/` as in AutoGaze."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.augmentation import Augmentation, augment
from autogaze.datasets.clip import ClipKey, NamedClips, TrainingClip, UnreadableClip
from autogaze.datasets.decoding import Decoder, OpenVideo, choose_decoder
from autogaze.datasets.labels import LabelFile, short_name, window_name
from autogaze.errors import TrainingError, VideoError
from autogaze.utils.seeding import integer, seeded

log = logging.getLogger("autogaze.datasets")

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")

MAX_CLIP = 2**14
"""Frames of a clip, which is in memory as a whole: 2.3 GiB of 224 x 224 pixels."""


@dataclass(frozen=True)
class Window:
    """Temporal windows: how clips are cut out of videos.

    Args:
        clip_len: frames per clip.
        stride: from one frame of a clip to the next, in frames of the video.
        random: the clip's start is drawn anew in every epoch; else it is the first frame.
        every: all consecutive clips of a video, not only the first.

    Raises:
        TrainingError: numbers below 1, more than `MAX_CLIP` frames, or both `random` and `every`.
    """

    clip_len: int = 16
    stride: int = 1
    random: bool = False
    every: bool = False

    def __post_init__(self) -> None:
        for name in ("clip_len", "stride"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.clip_len > MAX_CLIP:
            raise TrainingError(f"clip_len must be at most {MAX_CLIP:,}, got {self.clip_len:,}")
        if self.random and self.every:
            raise TrainingError("windows are either random or consecutive, not both")

    @property
    def span(self) -> int:
        """Frames of the video from the clip's first to its last, both included."""
        return (self.clip_len - 1) * self.stride + 1

    def starts(self, num_frames: int) -> range:
        """First frames of the consecutive clips of a video, at least one."""
        return range(0, max(1, num_frames - self.span + 1), self.clip_len * self.stride)

    def draw(self, num_frames: int, generator: torch.Generator) -> int:
        """First frame of a random clip."""
        return integer(generator, max(1, num_frames - self.span + 1))


class VideoClip(NamedTuple):
    """A clip of a video: the file and the first frame."""

    path: Path
    start: int = 0

    @property
    def name(self) -> str:
        """Name in label files."""
        return window_name(short_name(self.path), self.start)


class VideoClips(NamedClips):
    """A dataset of given clips of videos.

    Args:
        clips: files and first frames; with a random window the files alone count.
        window: how they are cut.
        side: of a frame in pixels (see `square`).
        decoder: see `choose_decoder`.
        augmentation: random changes of the clips.
        seed: of all random numbers.
        cache: decode all videos now and keep them in memory, 3 * side^2 bytes per frame.
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
        self.cached = _cache(paths, side, decoder) if cache else {}

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, number: int) -> str:
        """Name of a clip in label files."""
        return self.clips[number].name

    def __getitem__(self, key: ClipKey | int) -> TrainingClip | UnreadableClip:
        epoch, index = ClipKey.of(key)
        clip = self.clips[index]
        start = clip.start
        generator = seeded("video", self.seed, epoch, index)
        try:
            video = self.cached.get(clip.path) or self.decoder(clip.path)
            if self.window.random and video.num_frames:
                start = self.window.draw(video.num_frames, generator)
            frames = read_clip(video, start, self.window, self.side)
        except (VideoError, OSError) as error:
            return UnreadableClip(clip.name, str(error))
        if self.augmentation is not None:
            frames = augment(frames, self.augmentation, generator)
        labels = None if self.labels is None else self.labels[clip.name]
        return TrainingClip(frames, clip.name, labels)


class VideoWindows(VideoClips):
    """Clips of the videos below `root/<split>/` of several roots.

    Args:
        roots: folders with `train/` and `val/`.
        window: how clips are cut; the first of every video by default.
        side, augmentation, seed, cache: see `VideoClips`; labelled clips are not augmented.
        labels: gaze labels; the labelled clips, and no others, are used.
        decoder: a name, see `choose_decoder`.
        stream: number of the video stream of every file; None for the default one.

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
        stream: int | None = None,
    ) -> None:
        window = window or Window()
        folders = [Path(root) / split for root in roots]
        paths = find_files([folder for folder in folders if os.path.isdir(folder)], VIDEOS)
        if not paths:
            raise no_videos(folders)
        chosen = choose_decoder(decoder, stream)
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


def named_folders(names: str | Path | Iterable[str | Path]) -> list[Path]:
    """Folders, given as a list, or as one text with commas between their names."""
    if isinstance(names, str | Path):
        names = names.split(",") if isinstance(names, str) else [names]
    return [Path(str(name).strip()).expanduser() for name in names if str(name).strip()]


def find_files(roots: Sequence[str | Path], endings: Sequence[str]) -> list[Path]:
    """All files below some folders with one of the endings, each once, sorted; no hidden files."""
    found = {
        path
        for root in roots
        for path in Path(root).rglob("*")
        if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
    }
    return sorted(found)


def no_videos(places: Iterable[str | Path]) -> TrainingError:
    """The error of files and folders that hold none."""
    names = ", ".join(map(str, places)) or "no folder"
    return TrainingError(f"no videos ({' '.join(VIDEOS)}) in {names}")


def find_windows(paths: Sequence[Path], window: Window, decoder: Decoder) -> list[VideoClip]:
    """The clips of some videos: the first of each, or all consecutive ones.

    Frames are counted by the header or else by decoding. An unreadable video gives one clip,
    so that reading it reports why.
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


def _labelled(paths: Sequence[Path], window: Window, labels: LabelFile) -> list[VideoClip]:
    """The clips that a label file names, found without opening a video."""
    by_name: dict[str, Path] = {}
    clips: list[VideoClip] = []
    for path in paths:
        name = short_name(path)
        starts = labels.starts(name)
        if starts and by_name.setdefault(name, path) != path:
            raise TrainingError(
                f"{labels.path} labels {name}, which is the name of {by_name[name]} and of "
                f"{path}: rename one of their folders, and label again"
            )
        clips += [VideoClip(path, start) for start in starts]
    if not clips:
        raise labels.none_of([short_name(path) for path in paths])
    labels.check_length((clip.name for clip in clips), window.clip_len)
    return clips


def read_clip(video: OpenVideo, start: int, window: Window, side: int) -> UInt8[Tensor, "T 3 S S"]:
    """The frames of one clip; a video that is too short repeats its last frame.

    Raises:
        VideoError: damaged, or without frame `start`.
    """
    frames = [
        square(torch.from_numpy(pixels).permute(2, 0, 1), side)
        for number, pixels in enumerate(video.frames(start, start + window.span - 1))
        if number % window.stride == 0
    ]
    return torch.stack(frames + frames[-1:] * (window.clip_len - len(frames)))


def square(frame: UInt8[Tensor, "3 H W"], side: int) -> UInt8[Tensor, "3 S S"]:
    """Centre crop of a frame whose shorter side is resized (bilinear, antialiased) to `side`."""
    height, width = frame.shape[1:]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    if size != (height, width):
        frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return frame[:, top : top + side, left : left + side]


@dataclass(frozen=True)
class CachedVideo(OpenVideo):
    """A video in memory, decoded and resized once.

    Attributes:
        squares: all frames that could be decoded.
        num_frames: of its header, so that random clips are the same as without a cache.
        damage: the error that ended decoding, if any.
    """

    path: Path
    squares: UInt8[Tensor, "N S S 3"]
    num_frames: int | None = None  # type: ignore[misc]  # a field in the property's place
    damage: str | None = None

    @classmethod
    def decode(cls, path: Path, side: int, decoder: Decoder) -> "CachedVideo":
        """Decode a whole file, or up to its first error."""
        squares: list[Tensor] = []
        num_frames, damage = None, None
        try:
            video = decoder(path)
            num_frames = video.num_frames
            for pixels in video.frames():
                frame = square(torch.from_numpy(pixels).permute(2, 0, 1), side)
                squares.append(frame.permute(1, 2, 0))
        except (VideoError, OSError) as error:
            damage = str(error)
        empty = torch.empty(0, side, side, 3, dtype=torch.uint8)
        return cls(path, torch.stack(squares) if squares else empty, num_frames, damage)

    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        available = len(self.squares)
        if self.damage is not None and (last is None or last >= available):
            raise VideoError(self.damage)
        if first >= available:
            raise VideoError(f"{self.path}: has {available} frames, none from number {first} on")
        for frame in self.squares[first : None if last is None else last + 1]:
            yield frame.numpy()


def _cache(paths: Sequence[Path], side: int, decoder: Decoder) -> dict[Path, CachedVideo]:
    """Whole videos decoded into memory, several at a time."""
    log.info("decoding %d videos into memory", len(paths))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        videos = list(threads.map(partial(CachedVideo.decode, side=side, decoder=decoder), paths))
    num_bytes = sum(video.squares.nbytes for video in videos)
    log.info("%d videos take %.2f GB of memory", len(paths), num_bytes / 1e9)
    return dict(zip(paths, videos, strict=True))
