"""The clips of `bench quality`: real videos, filmed photographs, compositions.

Which clips these are follows from the files and the seed. They are read when they are
needed, so that memory does not grow with their number.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.checks import why_absent
from autogaze.clips import Clips
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoding import Decoder, choose_decoder
from autogaze.datasets.drawn import PICTURES
from autogaze.datasets.labels import short_name, window_name
from autogaze.datasets.video_windows import VIDEOS, Window, find_files, read_clip
from autogaze.errors import VideoError
from autogaze.utils.seeding import seeded
from autogaze.video.decoders import DecoderName

STATIC, MOVING, COMPOSED = KINDS = ("static", "moving", "composed")
"""Real videos, whose cameras mostly stand still; photographs filmed by a moving camera; and
cut-outs of photographs that move over photographs."""
CLIP_LEN = 16


@dataclass(frozen=True)
class ClipFiles:
    """The files of which clips are made: videos, and photographs to be filmed and composed."""

    videos: tuple[Path, ...] = ()
    photographs: tuple[Path, ...] = ()

    @classmethod
    def of_paths(
        cls, videos: Sequence[str | Path] = (), photographs: Sequence[str | Path] = ()
    ) -> "ClipFiles":
        """Files, and all that is below folders.

        Raises:
            VideoError: a path that does not exist, or with nothing below it.
        """
        return cls(_find(videos, VIDEOS, "videos"), _find(photographs, PICTURES, "pictures"))

    @classmethod
    def of_root(cls, root: str | Path, split: str) -> "ClipFiles":
        """All videos and pictures below `root/*/split`.

        Raises:
            VideoError: no such folders, or nothing in them.
        """
        folders = sorted(path for path in Path(root).glob(f"*/{split}") if path.is_dir())
        if not folders:
            raise VideoError(f"{root}: has no folders {root}/*/{split}")
        videos, photographs = (find_files(folders, endings) for endings in (VIDEOS, PICTURES))
        if not (videos or photographs):
            raise VideoError(f"no videos and no pictures in {root}/*/{split}")
        return cls(tuple(videos), tuple(photographs))


def _find(paths: Sequence[str | Path], endings: Sequence[str], what: str) -> tuple[Path, ...]:
    files: set[Path] = set()
    for path in map(Path, paths):
        if not os.path.exists(path):
            raise VideoError(f"{path}: {why_absent(path, 'file or folder')}")
        if path.is_file() and path.suffix.lower() not in endings:
            raise VideoError(f"{path}: expected {what}, which end in {' '.join(endings)}")
        files.update([path] if path.is_file() else find_files([path], endings))
    if paths and not files:
        raise VideoError(f"no {what} ({' '.join(endings)}) in {', '.join(map(str, paths))}")
    return tuple(sorted(files))


@dataclass(frozen=True)
class QualityClip:
    """One clip.

    Attributes:
        kind: one of `KINDS`.
        source: the video or photograph that it shows. Clips of one source are alike.
        name: the source, and which clip of it.
        read: makes the frames.
    """

    kind: str
    source: str
    name: str
    read: Callable[[], UInt8[Tensor, "T 3 S S"]]


def read_batch(clips: Sequence[QualityClip]) -> Clips:
    """The frames of some clips.

    Raises:
        VideoError: one cannot be read; figures on fewer clips would be other figures.
    """
    return Clips(torch.stack([clip.read() for clip in clips]))


def plan_clips(
    files: ClipFiles,
    *,
    per_kind: int,
    side: int,
    seed: int = 0,
    decoder: DecoderName = "auto",
    device: torch.device | None = None,
) -> list[QualityClip]:
    """The clips of every kind for which there are files, kind by kind.

    Sources are taken in an order drawn by the seed, one clip of each before any gives a
    second one. Moving and composed clips take photographs in the same order.

    Args:
        files: without photographs there are static clips only.
        per_kind: clips of a kind; fewer where the videos are too short for so many that
            do not overlap.
        side: pixels of a frame.
        decoder: of videos, see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.

    Raises:
        VideoError: a video that cannot be opened.
    """
    clips: list[QualityClip] = []
    if files.videos:
        window, opens = Window(CLIP_LEN), choose_decoder(decoder, device=device)
        videos = [_windows(path, window, side, opens, seed) for path in files.videos]
        clips += _in_turns(videos, per_kind, seed)
    if files.photographs:
        folders = sorted({path.parent for path in files.photographs})
        camera = CameraSettings(clip_len=CLIP_LEN, side=side)
        turns = -(-per_kind // len(files.photographs))
        moving = CameraClips(folders, camera, clips_per_picture=turns, seed=seed)
        composed = ComposedClips(
            folders, CompositionSettings(camera), clips_per_picture=turns, seed=seed
        )
        for kind, made in ((MOVING, moving), (COMPOSED, composed)):
            filmed = [
                partial(_film, kind, made, made.paths.index(path)) for path in files.photographs
            ]
            clips += _in_turns(filmed, per_kind, seed)
    return clips


ClipsOfSource = Callable[[int], QualityClip | None]
"""The n-th clip of a video or photograph; None if it has no more."""


def _in_turns(sources: Sequence[ClipsOfSource], count: int, seed: int) -> list[QualityClip]:
    order = torch.randperm(len(sources), generator=seeded("quality", "order", seed)).tolist()
    clips: list[QualityClip] = []
    for turn in range(count):
        found = [clip for place in order if (clip := sources[place](turn)) is not None]
        clips += found[: count - len(clips)]
        if not found or len(clips) == count:
            break
    return clips


def _windows(path: Path, window: Window, side: int, decoder: Decoder, seed: int) -> ClipsOfSource:
    """Clips that lie side by side in a video, in an order drawn by the seed."""
    starts = window.starts(decoder(path).num_frames or 0)
    name = short_name(path)
    order = torch.randperm(len(starts), generator=seeded("quality", name, seed)).tolist()

    def clip(turn: int) -> QualityClip | None:
        if turn >= len(starts):
            return None
        start = starts[order[turn]]

        def read() -> UInt8[Tensor, "T 3 S S"]:
            return read_clip(decoder(path), start, window, side)

        return QualityClip(STATIC, name, window_name(name, start), read)

    return clip


def _film(kind: str, made: CameraClips | ComposedClips, picture: int, turn: int) -> QualityClip:
    number = turn * len(made.paths) + picture  # clip n is of picture n modulo their number

    def read() -> UInt8[Tensor, "T 3 S S"]:
        clip = made[number]
        if not isinstance(clip, TrainingClip):
            raise VideoError(f"{clip.name}: {clip.cause}")
        return clip.frames

    return QualityClip(kind, made.source(number), made.name(number), read)
