"""Example videos of the page, drawn here: nothing is downloaded."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from autogaze.rendering.painter import font
from autogaze.video.writer import VideoWriter

WIDTH, HEIGHT, FPS, NUM_FRAMES = 640, 360, 12, 36
STREET = 1500
"""Width of the drawn street in pixels, of which a frame shows a part."""
ROAD = HEIGHT - 64
"""Where houses stand."""

Colour = tuple[int, int, int]
WALLS: tuple[Colour, ...] = ((201, 122, 92), (222, 196, 150), (142, 160, 178), (176, 98, 104))


@dataclass(frozen=True)
class Example:
    """An example: its file's name, what it shows, and how the camera and the car move.

    Args:
        camera: pixels per frame.
        car: pixels per frame, over the street; 0 for none.
    """

    name: str
    text: str
    camera: int
    car: int


EXAMPLES = (
    Example("still-camera", "A car passes a still camera", 0, 18),
    Example("moving-camera", "The camera follows the street", 12, 0),
)


def draw_examples(folder: Path) -> list[Path]:
    """Write the example videos (H.264, 3 seconds each), in the order of `EXAMPLES`."""
    paths = []
    street = draw_street()
    for example in EXAMPLES:
        path = folder / f"{example.name}.mp4"
        with VideoWriter(path, FPS, WIDTH, HEIGHT) as writer:
            for frame in draw_frames(example, street):
                writer.write(frame)
        paths.append(path)
    return paths


def draw_frames(example: Example, street: Image.Image) -> Iterator[np.ndarray]:
    """(H, W, 3) frames of an example."""
    for index in range(NUM_FRAMES):
        left = 120 + example.camera * index
        frame = street.crop((left, 0, left + WIDTH, HEIGHT))
        if example.car:
            draw_car(ImageDraw.Draw(frame), example.car * index - 60)
        yield np.asarray(frame)


def draw_street() -> Image.Image:
    """Houses and trees under a sky, with details of all sizes."""
    rng = random.Random(7)
    shades = np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = (1 - shades) * np.array([108, 164, 214]) + shades * np.array([214, 228, 236])
    image = Image.fromarray(np.repeat(sky.astype(np.uint8), STREET, axis=1))
    pen = ImageDraw.Draw(image)
    pen.ellipse((360, 30, 420, 90), fill=(250, 226, 130))
    x = 0
    for number in range(STREET):
        if x > STREET:
            break
        width, height = rng.randint(90, 150), rng.randint(110, 210)
        draw_house(pen, x, width, height, WALLS[number % len(WALLS)], rng)
        pen.text((x + width / 2, ROAD - 44), f"{2 * number + 1}", (250, 250, 250), font(16), "mm")
        draw_tree(pen, x + width + 24, rng.randint(60, 90))
        x += width + 48
    pen.rectangle((0, ROAD, STREET, ROAD + 12), fill=(168, 168, 162))
    pen.rectangle((0, ROAD + 12, STREET, HEIGHT), fill=(74, 76, 80))
    for dash in range(0, STREET, 60):
        pen.rectangle((dash, HEIGHT - 26, dash + 28, HEIGHT - 22), fill=(226, 222, 200))
    return image


def draw_house(
    pen: ImageDraw.ImageDraw, x: int, width: int, height: int, wall: Colour, rng: random.Random
) -> None:
    top = ROAD - height
    roof = [(x - 6, top), (x + width / 2, top - 46), (x + width + 6, top)]
    pen.polygon(roof, fill=(104, 66, 58))
    pen.rectangle((x, top, x + width, ROAD), fill=wall)
    for course in range(top, ROAD, 7):
        shade = tuple(max(0, value - 14) for value in wall)
        pen.line((x, course, x + width, course), fill=shade)
    for row in range(top + 16, ROAD - 60, 44):
        for column in range(x + 14, x + width - 28, 34):
            lit = rng.random() < 0.4
            pane = (246, 224, 150) if lit else (72, 92, 112)
            pen.rectangle((column, row, column + 20, row + 28), fill=pane, outline=(240, 240, 236))
            pen.line((column + 10, row, column + 10, row + 28), fill=(240, 240, 236))
    pen.rectangle((x + width // 2 - 13, ROAD - 54, x + width // 2 + 13, ROAD), fill=(82, 54, 44))


def draw_tree(pen: ImageDraw.ImageDraw, x: int, height: int) -> None:
    pen.rectangle((x - 3, ROAD - height // 2, x + 3, ROAD), fill=(92, 70, 48))
    for step in range(9):
        angle = step * 2.4
        dx, dy = 12 * math.cos(angle), 16 * math.sin(angle)
        green = (58 + 6 * step, 112 + 4 * step, 64)
        pen.ellipse(
            (x + dx - 14, ROAD - height + dy - 14, x + dx + 14, ROAD - height + dy + 14), green
        )


def draw_car(pen: ImageDraw.ImageDraw, x: int) -> None:
    y = HEIGHT - 58
    pen.polygon(
        [(x + 24, y - 22), (x + 76, y - 22), (x + 94, y), (x + 10, y)], fill=(150, 190, 214)
    )
    pen.rounded_rectangle((x, y - 2, x + 116, y + 24), radius=8, fill=(206, 44, 48))
    for wheel in (x + 24, x + 90):
        pen.ellipse((wheel - 12, y + 12, wheel + 12, y + 36), fill=(26, 26, 28))
        pen.ellipse((wheel - 5, y + 19, wheel + 5, y + 29), fill=(170, 172, 176))
