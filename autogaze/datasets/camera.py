"""Camera motion over photographs: clips of a virtual camera that pans, zooms and turns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.drawn import PictureClips
from autogaze.errors import TrainingError
from autogaze.utils.seeding import integer, uniform


@dataclass(frozen=True)
class CameraSettings:
    """Ranges of the camera's motion.

    Args:
        clip_len: frames per clip.
        side: of a frame in pixels.
        max_pan: largest distance per clip, in sides of the view.
        max_zoom: largest ratio of the first view's size and the last one's, either way.
        max_turn: largest rotation per clip in degrees, either way.
        min_view, max_view: size of the view, as a share of the picture's shorter side.

    Raises:
        TrainingError: a value out of range.
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


class CameraClips(PictureClips):
    """Clips of a camera that moves over photographs."""

    kind = "camera"
    settings_kind = CameraSettings

    def make(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"]:
        return film(pictures[0], self.settings, generator)


def film(
    picture: UInt8[Tensor, "3 H W"], settings: CameraSettings, generator: torch.Generator
) -> UInt8[Tensor, "T 3 S S"]:
    """Frames of one random camera path; the view never leaves the picture."""
    path = draw_path(picture.shape[2], picture.shape[1], settings, generator)
    return render(picture, path, settings.side)


@dataclass(frozen=True)
class CameraPath:
    """Square views of a picture, one per frame, in pixels of the picture.

    Attributes:
        centre: x and y.
        size: of the sides.
        turn: about the centre, in radians.
    """

    centre: Float[Tensor, "T 2"]
    size: Float[Tensor, " T"]
    turn: Float[Tensor, " T"]

    @property
    def reach(self) -> Float[Tensor, " T"]:
        """Half the extent of the turned square along either axis."""
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


def render(
    picture: UInt8[Tensor, "3 H W"], path: CameraPath, side: int
) -> UInt8[Tensor, "T 3 S S"]:
    """The views of a picture, sampled bilinearly at `side` pixels."""
    # A view that is larger than the frame is averaged first, or it would flicker.
    shrink = max(1, int(float(path.size.max()) / side))
    small = F.avg_pool2d(picture[None].float(), shrink)
    # A remainder at the right and at the bottom is in no average.
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
