"""Compositions: cut-outs of photographs that move over a photograph under a moving camera."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.camera import CameraSettings, film
from autogaze.datasets.drawn import PictureClips
from autogaze.errors import TrainingError
from autogaze.utils.seeding import integer, uniform


@dataclass(frozen=True)
class CompositionSettings:
    """Ranges of the random compositions.

    Args:
        camera: its motion over the background; half of the clips have a still camera.
        max_cutouts: largest number of cut-outs; the smallest is one.
        min_size, max_size: diameter of a cut-out, in sides of the frame.
        max_speed: of a cut-out, in sides of the frame per clip; a quarter of them is still.
        max_turn: largest rotation of a cut-out per clip in degrees, either way.
        max_growth: largest factor by which a cut-out grows or shrinks per clip.

    Raises:
        TrainingError: a value out of range.
    """

    camera: CameraSettings = field(default_factory=CameraSettings)
    max_cutouts: int = 4
    min_size: float = 0.1
    max_size: float = 0.5
    max_speed: float = 0.8
    max_turn: float = 60.0
    max_growth: float = 1.4

    def __post_init__(self) -> None:
        if self.max_cutouts < 1:
            raise TrainingError(f"max_cutouts must be at least 1, got {self.max_cutouts}")
        if not 0 < self.min_size <= self.max_size:
            raise TrainingError(
                f"cut-outs must satisfy 0 < min_size <= max_size, got {self.min_size} and "
                f"{self.max_size}"
            )
        if self.max_growth < 1 or self.max_speed < 0:
            raise TrainingError(
                f"max_growth must be at least 1 and max_speed at least 0, got {self.max_growth} "
                f"and {self.max_speed}"
            )

    @property
    def clip_len(self) -> int:
        """Frames of a clip."""
        return self.camera.clip_len


class ComposedClips(PictureClips):
    """Compositions of photographs, each clip with one of them as its background."""

    kind = "composed"
    settings_kind = CompositionSettings

    def others(self, generator: torch.Generator) -> list[int]:
        """Indices of the photographs that are cut out."""
        count = 1 + integer(generator, self.settings.max_cutouts)
        return [integer(generator, len(self.paths)) for _ in range(count)]

    def make(
        self, pictures: Sequence[UInt8[Tensor, "3 _ _"]], generator: torch.Generator
    ) -> UInt8[Tensor, "T 3 S S"]:
        return compose(pictures[0], pictures[1:], self.settings, generator)


def compose(
    background: UInt8[Tensor, "3 H W"],
    pictures: Sequence[UInt8[Tensor, "3 _ _"]],
    settings: CompositionSettings,
    generator: torch.Generator,
) -> UInt8[Tensor, "T 3 S S"]:
    """One clip: a cut-out of each of the pictures over the background."""
    camera = settings.camera
    frames = film(background, camera, generator)
    if integer(generator, 2):  # a still camera
        frames = frames[:1].expand_as(frames)
    cutouts = [Cutout.draw(picture, settings, generator) for picture in pictures]
    times = torch.linspace(0, 1, camera.clip_len).tolist()
    drawn = []
    for frame, time in zip(frames.float(), times, strict=True):
        for cutout in cutouts:
            frame = cutout.over(frame, time)
        drawn.append(frame)
    return torch.stack(drawn).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Cutout:
    """A soft-edged piece of a photograph and its motion; lengths in sides of the frame.

    Attributes:
        texture: the piece, at about the frame's own resolution.
        radius: its mean radius.
        waves: amplitude, frequency and phase of the sines that its outline is modulated by.
        softness: width of its edge, in pixels of the frame.
        start: x and y of its centre in the first frame.
        travel: motion along x and y, per clip.
        turn: rotation per clip, in radians.
        growth: factor of its size, per clip.
    """

    texture: Float[Tensor, "3 t t"]
    radius: float
    waves: tuple[tuple[float, int, float], ...]
    softness: float
    start: tuple[float, float]
    travel: tuple[float, float]
    turn: float
    growth: float

    @classmethod
    def draw(
        cls,
        picture: UInt8[Tensor, "3 H W"],
        settings: CompositionSettings,
        generator: torch.Generator,
    ) -> "Cutout":
        """A random piece of a photograph, with a random outline and motion."""
        radius = uniform(generator, settings.min_size, settings.max_size) / 2
        waves = tuple(
            (uniform(generator, 0, 0.3) / k, k, uniform(generator, 0, 2 * math.pi))
            for k in (2, 3, 4, 5)
        )
        moves = integer(generator, 4) > 0
        speed = uniform(generator, 0, settings.max_speed) * moves
        angle = uniform(generator, 0, 2 * math.pi)
        growth = math.exp(uniform(generator, -1, 1) * math.log(settings.max_growth) * moves)
        reach = radius * (1 + sum(strength for strength, _, _ in waves))  # of its outline, at most
        pixels = max(2, math.ceil(2 * reach * max(1.0, growth) * settings.camera.side))
        return cls(
            _piece(picture, pixels, generator),
            radius,
            waves,
            uniform(generator, 1, 4),
            (uniform(generator, 0.1, 0.9), uniform(generator, 0.1, 0.9)),
            (speed * math.cos(angle), speed * math.sin(angle)),
            math.radians(uniform(generator, -settings.max_turn, settings.max_turn)) * moves,
            growth,
        )

    def over(self, frame: Float[Tensor, "3 S S"], time: float) -> Float[Tensor, "3 S S"]:
        """The frame with the cut-out on it, at a time in [0, 1]."""
        side = frame.shape[-1]
        axis = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        # Each pixel's coordinates (u, v) on the cut-out.
        dx = x - self.start[0] - self.travel[0] * time
        dy = y - self.start[1] - self.travel[1] * time
        size = self.growth**time
        cos, sin = math.cos(self.turn * time) / size, math.sin(self.turn * time) / size
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        angle = torch.atan2(v, u)
        bumps = 1 + sum(
            strength * torch.cos(number * angle + phase) for strength, number, phase in self.waves
        )
        inside = (self.radius * bumps - torch.hypot(u, v)) * size * side / self.softness + 0.5
        alpha = inside.clamp(0, 1)
        reach = self.radius * (1 + sum(strength for strength, _, _ in self.waves))
        grid = torch.stack([u, v], dim=-1)[None] / reach
        colour = F.grid_sample(
            self.texture[None], grid, padding_mode="border", align_corners=False
        )[0]
        return frame + (colour - frame) * alpha


def _piece(
    picture: UInt8[Tensor, "3 H W"], pixels: int, generator: torch.Generator
) -> Float[Tensor, "3 t t"]:
    """A random square of a photograph, resized so that a texel is about a pixel."""
    height, width = picture.shape[1:]
    size = max(1, round(min(height, width) * uniform(generator, 0.3, 1.0)))
    top, left = integer(generator, height - size + 1), integer(generator, width - size + 1)
    square = picture[None, :, top : top + size, left : left + size].float()
    return F.interpolate(square, (pixels, pixels), mode="bilinear", antialias=True)[0]
