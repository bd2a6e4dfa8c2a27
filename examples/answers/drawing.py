"""Drawn clips whose facts are known: a moving shape, a digit, dots and a lamp on textured ground.

A clip is 10 frames of 448 x 448, 2 per second: 5 tubelets of 14 x 14 units of 32 pixels. The digit
and each dot lie inside one unit, all else anywhere. A clip is determined by its split and number.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from autogaze.video.writer import VideoWriter

SIDE, NUM_FRAMES, FPS = 448, 10, 2.0
UNIT = 32
GRID, TUBELETS = SIDE // UNIT, NUM_FRAMES // 2
COLOURS = {
    "red": (215, 35, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (235, 220, 50),
    "purple": (150, 40, 170),
    "cyan": (60, 200, 215),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (y, x)
SHAPES = ("disc", "square", "diamond", "triangle")
MAX_DOTS = 4
DOT, LAMP, GLYPH = 26, 44, 4
"""Diameters of dots and the lamp; side of a digit's pixel, of which it has 5 x 7."""
WHITE, BLACK, LIT, UNLIT = (250, 250, 250), (12, 12, 12), (255, 130, 20), (45, 45, 50)
TEXTURES, TEXTURE_SIDE = 32, 640
SEEN = 0.3
"""Share of a unit from which on it shows a thing."""
SPLITS = {"train": 1, "validation": 2, "test": 3}

_DIGITS = (
    "0e1113151911 0e", "040c0404040 40e", "0e1101020408 1f", "1f0204020111 0e", "02060a121f02 02",
    "1f101e010111 0e", "0608101e1111 0e", "1f0102040808 08", "0e11110e1111 0e", "0e11110f0102 0c",
)  # fmt: skip
"""Seven rows of five bits per digit, in hexadecimal."""


@dataclass(frozen=True)
class Facts:
    """What a clip shows: all that its questions ask, and where everything stands.

    Attributes:
        colour, direction, shape: of the shape that moves.
        digit: in 0..9; `corner` is where it stands, 0..3, row by row.
        num_dots: white dots, 1..4.
        second: when the lamp goes on, 1..4; in the tubelet of this number it is on.
        size, step: of the shape, and how far it moves per frame, in pixels.
        start: its top left corner in frame 0.
        digit_at, lamp_at, dots_at: top left corners.
    """

    colour: str
    direction: str
    shape: str
    digit: int
    corner: int
    num_dots: int
    second: int
    size: int
    step: int
    start: tuple[int, int]
    digit_at: tuple[int, int]
    lamp_at: tuple[int, int]
    dots_at: tuple[tuple[int, int], ...]

    def shape_at(self, frame: int) -> tuple[int, int]:
        """Top left corner of the moving shape."""
        dy, dx = DIRECTIONS[self.direction]
        return self.start[0] + dy * self.step * frame, self.start[1] + dx * self.step * frame


@dataclass(frozen=True)
class Clip:
    """A drawn clip.

    Attributes:
        frames: (10, 3, 448, 448).
        facts: what it shows.
        split, number: which clip it is.
    """

    frames: UInt8[Tensor, "T 3 S S"]
    facts: Facts
    split: str
    number: int


def draw_clip(split: str, number: int) -> Clip:
    """The clip of this number; splits have no clip and no texture in common."""
    rng = np.random.default_rng((SPLITS[split], number))
    facts = draw_facts(rng)
    return Clip(torch.from_numpy(paint(facts, _ground(split, rng))), facts, split, number)


def write_clip(clip: Clip, path: Path) -> None:
    """Write an MP4 file."""
    with VideoWriter(path, FPS, SIDE, SIDE) as video:
        for frame in clip.frames:
            video.write(frame.permute(1, 2, 0).numpy())


def draw_facts(rng: Generator) -> Facts:
    """Facts, each independent of the others, and places at which nothing covers anything."""
    while True:
        corner, direction = int(rng.integers(4)), str(rng.choice(list(DIRECTIONS)))
        # Inside the unit in the corner, or one unit further in, on a plate as large as the unit.
        inset = rng.integers(0, 2, 2)
        row, column = (
            int(i) if not far else GRID - 1 - int(i)
            for i, far in zip(inset, divmod(corner, 2), strict=True)
        )
        digit_at = (row * UNIT, column * UNIT)
        size, step = int(rng.integers(80, 105)), int(rng.integers(14, 25))
        travel = step * (NUM_FRAMES - 1)
        dy, dx = DIRECTIONS[direction]
        room = (SIDE - size - abs(dy) * travel, SIDE - size - abs(dx) * travel)
        low = (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)))
        swept = (*low, low[0] + size + abs(dy) * travel, low[1] + size + abs(dx) * travel)
        taken = [(*digit_at, digit_at[0] + UNIT, digit_at[1] + UNIT)]
        if _overlap(swept, taken[0]):
            continue
        taken.append(swept)
        num_dots = int(rng.integers(1, MAX_DOTS + 1))
        places = [_free_place(rng, LAMP, taken)]
        places += [_free_place(rng, DOT, taken, in_unit=True) for _ in range(num_dots)]
        if any(place is None for place in places):
            continue
        start = (low[0] + travel * (dy < 0), low[1] + travel * (dx < 0))
        lamp_at, *dots_at = [place for place in places if place is not None]
        return Facts(
            colour=str(rng.choice(list(COLOURS))),
            direction=direction,
            shape=str(rng.choice(SHAPES)),
            digit=int(rng.integers(10)),
            corner=corner,
            num_dots=num_dots,
            second=int(rng.integers(1, TUBELETS)),
            size=size,
            step=step,
            start=start,
            digit_at=digit_at,
            lamp_at=lamp_at,
            dots_at=tuple(dots_at),
        )


def _overlap(a: tuple[int, ...], b: tuple[int, ...], margin: int = 6) -> bool:
    """Whether two boxes (top, left, bottom, right) come closer than a margin."""
    return all(a[i] < b[i + 2] + margin and b[i] < a[i + 2] + margin for i in (0, 1))


def _free_place(
    rng: Generator, side: int, taken: list[tuple[int, ...]], in_unit: bool = False
) -> tuple[int, int] | None:
    """Top left corner of a square that overlaps nothing; adds it to what is taken.

    With `in_unit` the square lies inside one unit.
    """
    for _ in range(50):
        if in_unit:
            corner = rng.integers(0, GRID, 2) * UNIT + rng.integers(0, UNIT - side + 1, 2)
        else:
            corner = rng.integers(4, SIDE - side - 4, 2)
        top, left = (int(value) for value in corner)
        box = (top, left, top + side, left + side)
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return top, left
    return None


def paint(facts: Facts, ground: UInt8[np.ndarray, "3 S S"]) -> UInt8[np.ndarray, "T 3 S S"]:
    """The frames of a clip."""
    still = ground.copy()
    _put(still, facts.digit_at, np.ones((UNIT, UNIT), bool), BLACK)
    inside = (facts.digit_at[0] + 2, facts.digit_at[1] + 6)
    _put(still, inside, _digit_mask(facts.digit), WHITE)
    for place in facts.dots_at:
        _put(still, place, _mask("disc", DOT), WHITE)
    _put(still, facts.lamp_at, _mask("disc", LAMP), BLACK)
    frames = np.broadcast_to(still, (NUM_FRAMES, *still.shape)).copy()
    bulb = (facts.lamp_at[0] + 4, facts.lamp_at[1] + 4)
    for number, frame in enumerate(frames):
        _put(frame, bulb, _mask("disc", LAMP - 8), LIT if number // 2 >= facts.second else UNLIT)
        _put(frame, facts.shape_at(number), _mask(facts.shape, facts.size), COLOURS[facts.colour])
    return frames


def _put(
    picture: UInt8[np.ndarray, "3 S S"], at: tuple[int, int], mask: np.ndarray, rgb: tuple[int, ...]
) -> None:
    """Paint a colour where a mask is true."""
    part = picture[:, at[0] : at[0] + mask.shape[0], at[1] : at[1] + mask.shape[1]]
    for channel, value in zip(part, rgb, strict=True):
        channel[mask] = value


@functools.cache
def _mask(shape: str, size: int) -> np.ndarray:
    """(size, size): where a shape is."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    inside: np.ndarray = {
        "disc": x**2 + y**2 < 1,
        "square": np.maximum(abs(x), abs(y)) < 0.9,
        "diamond": abs(x) + abs(y) < 1,
        "triangle": abs(x) < (y + 1) / 2,
    }[shape]
    return inside


@functools.cache
def _digit_mask(digit: int) -> np.ndarray:
    """(28, 20): where a digit's strokes are."""
    rows = bytes.fromhex(_DIGITS[digit].replace(" ", ""))
    bits = np.array([[row >> place & 1 for place in range(4, -1, -1)] for row in rows], bool)
    return bits.repeat(GLYPH, 0).repeat(GLYPH, 1)


@functools.lru_cache(2 * TEXTURES)
def _texture(split: str, number: int) -> UInt8[np.ndarray, "3 _ _"]:
    """A ground of a split: muted colours, smooth or grainy."""
    rng = np.random.default_rng((SPLITS[split], number, TEXTURE_SIDE))
    noise = np.zeros((3, TEXTURE_SIDE, TEXTURE_SIDE), np.float32)
    for cell in (160, 64, 16, 4, 1):
        count = TEXTURE_SIDE // cell
        grey, tint = rng.normal(size=(1, count, count)), rng.normal(size=(3, count, count))
        octave = torch.from_numpy((grey + 0.5 * tint).astype(np.float32))[None]
        smooth = F.interpolate(octave, TEXTURE_SIDE, mode="bilinear")
        noise += rng.uniform(0, 1) * smooth[0].numpy()
    noise *= rng.uniform(12, 28) / noise.std()
    base = rng.uniform(80, 150) + rng.uniform(-15, 15, (3, 1, 1))
    return (base + noise).clip(30, 200).astype(np.uint8)


def _ground(split: str, rng: Generator) -> UInt8[np.ndarray, "3 S S"]:
    """A part of a texture, turned and mirrored."""
    texture = _texture(split, int(rng.integers(TEXTURES)))
    top, left = rng.integers(0, TEXTURE_SIDE - SIDE + 1, 2)
    part = np.rot90(texture[:, top : top + SIDE, left : left + SIDE], rng.integers(4), (1, 2))
    return part[:, :, ::-1] if rng.integers(2) else part


UNIT_KINDS = ("ground", *COLOURS, *map(str, range(10)), "dot", "unlit", "lit")
"""What a unit can show; one of the moving shape shows its colour."""


def unit_labels(
    facts: Facts,
) -> tuple[Int[Tensor, "tubelets g g"], Int[Tensor, "tubelets g g"]]:
    """What each unit shows and which way that moves, from the facts alone.

    Returns:
        Place in `UNIT_KINDS`, -1 where too little is seen to say; and 0 for what stands still, else
        1 + place in `DIRECTIONS`.
    """
    places = [_covered([facts.shape_at(frame)], facts.size) for frame in range(NUM_FRAMES)]
    shape = torch.stack(places).unflatten(0, (TUBELETS, 2)).amax(1)
    lit = torch.arange(TUBELETS)[:, None, None] >= facts.second
    things: list[tuple[Float[Tensor, "tubelets g g"], Int[Tensor, "..."]]] = [
        (shape, torch.tensor(UNIT_KINDS.index(facts.colour))),
        (_covered([facts.digit_at], UNIT), torch.tensor(UNIT_KINDS.index(str(facts.digit)))),
        (_covered(facts.dots_at, DOT), torch.tensor(UNIT_KINDS.index("dot"))),
        (_covered([facts.lamp_at], LAMP), UNIT_KINDS.index("unlit") + lit.long()),
    ]
    shown = torch.zeros(TUBELETS, GRID, GRID, dtype=torch.long)
    for covered, kind in things:
        shown = torch.where(covered > SEEN, kind, torch.where(covered > 0, -1, shown))
    return shown, (shape > SEEN) * (1 + list(DIRECTIONS).index(facts.direction))


def _covered(places: Sequence[tuple[int, int]], side: int) -> Float[Tensor, "g g"]:
    """Share of every unit that squares with these top left corners cover."""
    edges = torch.arange(GRID) * UNIT
    total = torch.zeros(GRID, GRID)
    for corner in places:
        y, x = (
            (torch.clamp(edges + UNIT, max=at + side) - torch.clamp(edges, min=at)).clamp(min=0)
            for at in corner
        )
        total += torch.outer(y, x) / UNIT**2
    return total
