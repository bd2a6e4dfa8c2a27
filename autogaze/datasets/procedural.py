"""Procedural clips: textured shapes that move over a moving textured background, without data."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.drawn import DrawnClips
from autogaze.errors import TrainingError
from autogaze.utils.seeding import integer, uniform


@dataclass(frozen=True)
class ProceduralSettings:
    """Ranges of the random clips.

    Args:
        clip_len: frames per clip.
        side: of a frame in pixels.
        max_shapes: largest number of shapes; the smallest is one.
        max_speed: of a shape, in sides of the frame per clip.
        max_camera: speed of the background, likewise; it is still in half of the clips.

    Raises:
        TrainingError: a value out of range.
    """

    clip_len: int = 16
    side: int = 224
    max_shapes: int = 4
    max_speed: float = 0.8
    max_camera: float = 0.3

    def __post_init__(self) -> None:
        if min(self.clip_len, self.side, self.max_shapes) < 1:
            raise TrainingError(
                "clip_len, side and max_shapes must be at least 1, got "
                f"{self.clip_len}, {self.side} and {self.max_shapes}"
            )
        if min(self.max_speed, self.max_camera) < 0:
            raise TrainingError(
                f"speeds must not be negative, got {self.max_speed} and {self.max_camera}"
            )


class ProceduralClips(DrawnClips):
    """Procedural clips; for the arguments see `DrawnClips`."""

    kind = "procedural"
    settings_kind = ProceduralSettings

    def source(self, number: int) -> str:
        return self.kind

    def draw(self, number: int, generator: torch.Generator) -> UInt8[Tensor, "T 3 S S"]:
        return (draw_clip(self.settings, generator) * 255).round().to(torch.uint8)


def draw_clip(settings: ProceduralSettings, generator: torch.Generator) -> Float[Tensor, "T 3 S S"]:
    """One clip in [0, 1]."""
    camera = settings.max_camera if integer(generator, 2) else 0.0
    layers = [_Layer.background(generator, camera)]
    for _ in range(1 + integer(generator, settings.max_shapes)):
        layers.append(_Layer.shape(generator, settings.max_speed))
    times = torch.linspace(0, 1, settings.clip_len)
    return torch.stack([_render(layers, float(time), settings.side) for time in times])


@dataclass(frozen=True)
class _Layer:
    """A moving texture: inside an outline, or everywhere."""

    texture: Float[Tensor, "3 t t"]
    radius: float  # of the outline, in sides of the frame; 0 for a background
    corners: int  # of the outline; 0 is a disc
    start: tuple[float, float]
    velocity: tuple[float, float]
    spin: float  # radians per clip

    @classmethod
    def background(cls, generator: torch.Generator, speed: float) -> "_Layer":
        return cls(_texture(generator), 0.0, 0, (0.5, 0.5), _velocity(generator, speed), 0.0)

    @classmethod
    def shape(cls, generator: torch.Generator, speed: float) -> "_Layer":
        return cls(
            _texture(generator),
            uniform(generator, 0.05, 0.2),
            (0, 3, 4, 5)[integer(generator, 4)],
            (uniform(generator, 0.1, 0.9), uniform(generator, 0.1, 0.9)),
            _velocity(generator, speed),
            uniform(generator, -math.pi, math.pi),
        )


def _velocity(generator: torch.Generator, most: float) -> tuple[float, float]:
    speed, angle = uniform(generator, 0, most), uniform(generator, 0, 2 * math.pi)
    return speed * math.cos(angle), speed * math.sin(angle)


def _texture(generator: torch.Generator) -> Float[Tensor, "3 t t"]:
    """Coloured noise of several frequencies, so that there is detail at every scale."""
    base = torch.rand(3, 1, 1, generator=generator)
    size, total = 256, base.expand(3, 256, 256).clone()
    strength = uniform(generator, 0.1, 0.6)
    for grain in (4, 16, 64):
        noise = torch.rand(1, 3, grain, grain, generator=generator) - 0.5
        wide = F.interpolate(noise, (size, size), mode="bicubic", align_corners=False)[0]
        total += strength * wide * (4 / grain) ** 0.5
    return total.clamp(0, 1)


def _render(layers: list[_Layer], time: float, side: int) -> Float[Tensor, "3 S S"]:
    axis = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = torch.zeros(3, side, side)
    for layer in layers:
        # Each pixel's coordinates (u, v) on the layer.
        dx = x - layer.start[0] - layer.velocity[0] * time
        dy = y - layer.start[1] - layer.velocity[1] * time
        cos, sin = math.cos(layer.spin * time), math.sin(layer.spin * time)
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        grid = torch.stack([u, v], dim=-1)[None] * 2
        colour = F.grid_sample(
            layer.texture[None], grid, padding_mode="reflection", align_corners=False
        )[0]
        if layer.radius:
            inside = _outline(u, v, layer.radius, layer.corners, side)
            picture = picture * (1 - inside) + colour * inside
        else:
            picture = colour
    return picture.clamp(0, 1)


def _outline(u: Tensor, v: Tensor, radius: float, corners: int, side: int) -> Tensor:
    """Share of each pixel that lies inside the outline, softened over one pixel at the edge."""
    if corners:
        angles = torch.arange(corners) * (2 * math.pi / corners)
        planes = u[None] * angles.cos()[:, None, None] + v[None] * angles.sin()[:, None, None]
        distance = planes.amax(0)
    else:
        distance = (u.square() + v.square()).sqrt()
    return ((radius - distance) * side + 0.5).clamp(0, 1)
