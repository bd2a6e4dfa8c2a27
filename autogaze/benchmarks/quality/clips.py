"""The clips that selectors are judged on: real videos, filmed photographs, compositions.

Which clips these are follows from the files and the seed. They are read when they are
needed, so that memory does not grow with their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.benchmarks.quality.material import Material
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoders import Decoder, choose_decoder
from autogaze.datasets.files import short_name
from autogaze.datasets.footage import FileFootage
from autogaze.datasets.labels import window_name
from autogaze.datasets.seeds import seeded
from autogaze.datasets.windows import Window
from autogaze.errors import VideoError
from autogaze.selectors.base import Clips

STATIC, MOVING, COMPOSED = "static", "moving", "composed"
KINDS = (STATIC, MOVING, COMPOSED)
"""Real videos, whose cameras mostly stand still; photographs filmed by a moving camera; and
cut-outs of photographs that move over photographs."""
CLIP_LEN = 16


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
    material: Material, *, per_kind: int, side: int, seed: int = 0, clip_len: int = CLIP_LEN
) -> list[QualityClip]:
    """The clips of every kind that there is something for, kind by kind.

    Sources are taken in an order drawn by the seed, one clip of each before any gives a
    second one. Moving and composed clips take photographs in the same order.

    Args:
        material: without photographs there are static clips only.
        per_kind: clips of a kind; fewer where the videos are too short for so many that
            do not overlap.
        side: pixels of a frame.

    Raises:
        VideoError: a video that cannot be opened.
    """
    static: list[Source] = []
    if material.videos:
        window, decoder = Window(clip_len), choose_decoder()
        static = [_video(path, window, side, decoder, seed) for path in material.videos]
    clips = _in_turns(static, per_kind, seed)
    if material.photographs:
        folders = sorted({path.parent for path in material.photographs})
        camera = CameraSettings(clip_len=clip_len, side=side)
        turns = -(-per_kind // len(material.photographs))
        moving = CameraClips(folders, camera, clips_a_picture=turns, seed=seed)
        composed = ComposedClips(
            folders, CompositionSettings(camera), clips_a_picture=turns, seed=seed
        )
        for kind, made in ((MOVING, moving), (COMPOSED, composed)):
            photographs = [
                partial(_film, kind, made, made.paths.index(path)) for path in material.photographs
            ]
            clips += _in_turns(photographs, per_kind, seed)
    return clips


Source = Callable[[int], QualityClip | None]
"""The n-th clip of a video or photograph, while there is one."""


def _in_turns(sources: Sequence[Source], count: int, seed: int) -> list[QualityClip]:
    order = torch.randperm(len(sources), generator=seeded("quality", "order", seed)).tolist()
    clips: list[QualityClip] = []
    for turn in range(count):
        found = [clip for place in order if (clip := sources[place](turn)) is not None]
        clips += found[: count - len(clips)]
        if not found or len(clips) == count:
            break
    return clips


def _video(path: Path, window: Window, side: int, decoder: Decoder, seed: int) -> Source:
    """Clips that lie side by side in a video, in an order drawn by the seed."""
    starts = window.starts(decoder(path).num_frames or 0)
    name = short_name(path)
    order = torch.randperm(len(starts), generator=seeded("quality", name, seed)).tolist()

    def clip(turn: int) -> QualityClip | None:
        if turn >= len(starts):
            return None
        start = starts[order[turn]]
        read = partial(_window, path, start, window, side, decoder)
        return QualityClip(STATIC, name, window_name(name, start), read)

    return clip


def _window(
    path: Path, start: int, window: Window, side: int, decoder: Decoder
) -> UInt8[Tensor, "T 3 S S"]:
    return FileFootage(path, side, decoder).clip(start, window)


def _film(kind: str, made: CameraClips | ComposedClips, picture: int, turn: int) -> QualityClip:
    # Clip n is of picture n modulo their number.
    number = turn * len(made.paths) + picture

    def read() -> UInt8[Tensor, "T 3 S S"]:
        clip = made[number]
        if not isinstance(clip, TrainingClip):
            raise VideoError(f"{clip.name}: {clip.cause}")
        return clip.frames

    return QualityClip(kind, made.shows(number), made.name(number), read)
