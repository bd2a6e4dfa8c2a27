"""Videos from photographs: a virtual camera that pans, zooms and scans over a picture.

Most real clips at hand have a still camera; these have nothing but camera motion. The
path of a clip follows from the seed, the epoch and its number.
"""

import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.clip import UnreadableClip
from autogaze.datasets.drawn import DrawnClips
from autogaze.datasets.labels import LabelFile
from autogaze.datasets.video_folder import find_files, short_name
from autogaze.errors import TrainingError, VideoError
from autogaze.utils.seeding import integer, uniform
from autogaze.video.stills import read_still

# Clips that are made of photographs.

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


__all__ = ["PICTURES", "CameraClips", "CameraPath", "CameraSettings", "draw_path", "film", "show"]


@dataclass(frozen=True)
class CameraSettings:
    """How the camera moves.

    Args:
        clip_len: frames.
        side: pixels of a frame.
        max_pan: distance travelled in a clip, in sides of the view.
        max_zoom: largest factor between the first view's size and the last one's.
        max_turn: degrees turned in a clip.
        min_view, max_view: size of the view, as a share of the picture's shorter side.

    Raises:
        TrainingError: numbers that describe no camera.
    """

    clip_len: int = 16
    side: int = 224
    max_pan: float = 0.8
    max_zoom: float = 1.5
    max_turn: float = 10.0
    min_view: float = 0.3
    max_view: float = 0.9

    def __post_init__(self) -> None:
        if self.clip_len < 1 or self.side < 1:
            raise TrainingError(f"clips need frames and pixels, got {self.clip_len}, {self.side}")
        if not 0 < self.min_view <= self.max_view <= 1:
            raise TrainingError(
                f"views must satisfy 0 < min_view <= max_view <= 1, got {self.min_view} and "
                f"{self.max_view}"
            )
        if self.max_zoom < 1 or self.max_pan < 0:
            raise TrainingError(
                f"max_zoom must be at least 1 and max_pan at least 0, got {self.max_zoom} and "
                f"{self.max_pan}"
            )


class CameraClips(PictureClips[CameraSettings]):
    """Clips filmed off photographs."""

    kind = "camera"
    settings_kind = CameraSettings

    def make(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"]:
        """See `PictureClips`."""
        return film(pictures[0], self.settings, generator)


def film(
    picture: UInt8[Tensor, "3 H W"], settings: CameraSettings, generator: torch.Generator
) -> UInt8[Tensor, "T 3 S S"]:
    """One clip; the view never leaves the picture."""
    _, height, width = picture.shape
    return show(picture, draw_path(width, height, settings, generator), settings.side)


@dataclass(frozen=True)
class CameraPath:
    """Where a square view is in every frame, in pixels of the picture.

    Attributes:
        centre: x and y of its middle.
        size: of its sides.
        turn: radians that it is turned about its middle.
    """

    centre: Float[Tensor, "T 2"]
    size: Float[Tensor, " T"]
    turn: Float[Tensor, " T"]

    @property
    def reach(self) -> Float[Tensor, " T"]:
        """How far the turned square reaches from its middle along either axis."""
        return self.size / 2 * (self.turn.cos().abs() + self.turn.sin().abs())


def draw_path(
    width: int, height: int, settings: CameraSettings, generator: torch.Generator
) -> CameraPath:
    """A path whose every view lies inside a picture of this size."""
    shorter = min(height, width)
    first = shorter * uniform(generator, settings.min_view, settings.max_view)
    ratio = math.exp(uniform(generator, -1, 1) * math.log(settings.max_zoom))
    last = min(max(first * ratio, settings.min_view * shorter), settings.max_view * shorter)
    turn = math.radians(uniform(generator, -settings.max_turn, settings.max_turn))
    angle = uniform(generator, 0, 2 * math.pi)
    travel = uniform(generator, 0, settings.max_pan) * (first + last) / 2
    time = torch.linspace(-0.5, 0.5, settings.clip_len)
    if integer(generator, 2):  # half of the pans start and stop smoothly
        time = 0.5 * torch.sin(math.pi * time)
    size = first + (last - first) * (time + 0.5)
    turned = turn * time
    reach = CameraPath(torch.zeros(len(time), 2), size, turned).reach
    # Where a view that large cannot be turned so far, it is made smaller.
    fit = min(1.0, shorter / 2 / float(reach.max()))
    size, reach = size * fit, reach * fit
    middle = torch.tensor([width / 2, height / 2])
    drift = torch.tensor([math.cos(angle), math.sin(angle)]) * travel
    slack = torch.tensor([width, height]) - 2 * float(reach.max()) - drift.abs()
    shift = (torch.rand(2, generator=generator) - 0.5) * slack.clamp(min=0)
    centre = middle + shift + time[:, None] * drift  # (T, 2) as x, y
    limit = torch.tensor([width, height])
    centre = torch.minimum(torch.maximum(centre, reach[:, None]), limit - reach[:, None])
    return CameraPath(centre, size, turned)


def show(picture: UInt8[Tensor, "3 H W"], path: CameraPath, side: int) -> UInt8[Tensor, "T 3 S S"]:
    """Squares of a picture, each turned about its middle and resized to `side`."""
    # Pixels are averaged where the view is larger than its picture, or it would flicker.
    shrink = max(1, int(float(path.size.max()) / side))
    small = F.avg_pool2d(picture[None].float(), shrink)
    # What is left over at the right and at the bottom is in no average.
    height, width = (shrink * length for length in small.shape[-2:])
    axis = (torch.arange(side) + 0.5) / side - 0.5
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    frames = []
    for middle, length, angle in zip(path.centre, path.size, path.turn, strict=True):
        x = middle[0] + length * (u * angle.cos() - v * angle.sin())
        y = middle[1] + length * (u * angle.sin() + v * angle.cos())
        grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)
        frames.append(
            F.grid_sample(small, grid[None], padding_mode="border", align_corners=False)[0]
        )
    return torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
