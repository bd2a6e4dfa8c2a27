"""Contact sheet: frames across, and down what each scale looked at and what that left.

The layout follows the figures of the AutoGaze paper: the frames themselves, then a
row a scale with only the chosen patches, as sharp as that scale is, then the canvas
reconstruction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import Rendering
from autogaze.rendering.painter import (
    Column,
    FrameFacts,
    chosen,
    frame_facts,
    frame_picture,
    patch_maps,
    percent,
    seen_at_scales,
    stitched,
)
from autogaze.rendering.palette import FAINT, GROUND, INK, PANEL, Colour, font, scale_colours
from autogaze.source import TileGrid
from autogaze.utils.files import replacing

# Where everything stands on a contact sheet: labels, pictures, numbers, white space.

MARGIN, GAP, LABELS = 28, 8, 128
TITLE, TEXT, SMALL = 24, 17, 14


@dataclass(frozen=True)
class Row:
    """The label of a row: its name, small print under it, and the colour of its bar."""

    name: str
    note: str = ""
    colour: Colour | None = None


def lay_out(
    columns: Sequence[Column], rows: Sequence[Row], title: str, subtitle: str
) -> Image.Image:
    """Draw the sheet.

    Args:
        columns: the frames, left to right; each has a picture for every row. The first line
            below them is large.
        rows: what the pictures are.
        title: the large words on top; `subtitle` stands beside them.
        subtitle: smaller.
    """
    height, width = columns[0].pictures[0].shape[:2]
    num_rows, lines_below = len(rows), len(columns[0].foot)
    left, top = MARGIN + LABELS, MARGIN + 78
    size = (
        max(left + len(columns) * (width + GAP) - GAP + MARGIN, _width(title, subtitle)),
        top
        + num_rows * (height + GAP)
        + 2 * TEXT
        + round(1.3 * SMALL * (lines_below - 2))
        + MARGIN,
    )
    image = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN - 4), title, fill=INK, font=font(TITLE))
    end = MARGIN + font(TITLE).getlength(title) + 18
    pen.text((end, MARGIN + TITLE - 1), subtitle, fill=FAINT, font=font(SMALL), anchor="ls")
    _labels(pen, rows, height, top)
    for number, column in enumerate(columns):
        x = left + number * (width + GAP)
        facts = column.facts
        when = f"{facts.seconds:.2f} s"
        pen.text((x, top - 9), when, fill=INK, font=font(TEXT), anchor="ls")
        after = x + font(TEXT).getlength(when) + 10
        if after + font(SMALL).getlength(f"frame {facts.number}") <= x + width:
            frame = f"frame {facts.number}"
            pen.text((after, top - 9), frame, fill=FAINT, font=font(SMALL), anchor="ls")
        for row, pixels in enumerate(column.pictures):
            image.paste(Image.fromarray(pixels), (x, top + row * (height + GAP)))
        y = top + num_rows * (height + GAP) + TEXT
        for line, words in enumerate(column.foot):
            colour, letters = (FAINT, font(SMALL)) if line else (INK, font(TEXT))
            pen.text((x, y + 1.3 * SMALL * line), words, fill=colour, font=letters, anchor="ls")
    return image


def _labels(pen: ImageDraw.ImageDraw, rows: Sequence[Row], height: int, top: int) -> None:
    for number, row in enumerate(rows):
        y = top + number * (height + GAP)
        if row.colour:
            pen.rectangle((MARGIN, y, MARGIN + 4, y + height - 1), fill=row.colour)
        lines = row.note.split("\n") if row.note else []
        room = 1.25 * TEXT + 1.35 * SMALL * len(lines)
        text = y + max(0.0, (height - room) / 2)
        pen.text((MARGIN + 14, text), row.name, fill=INK, font=font(TEXT))
        for place, line in enumerate(lines):
            below = text + 1.35 * TEXT + 1.35 * SMALL * place
            pen.text((MARGIN + 14, below), line, fill=FAINT, font=font(SMALL))


def _width(title: str, subtitle: str) -> int:
    words = font(TITLE).getlength(title) + 18 + font(SMALL).getlength(subtitle)
    return int(words) + 2 * MARGIN


MAX_COLUMNS = 8
_THINNING = 3  # shares no factor with a chunk's 16 frames, so columns fall on all parts of a chunk


class ContactSheet(Rendering):
    """At most eight evenly spaced frames of a video of any length, on one PNG.

    Where the length is unknown, every s-th frame is kept; whenever there are too
    many, only every third of those is, and s triples. So memory stays constant.

    Args:
        num_frames: how many frames will come, if known.
        cell: width of each small picture in pixels if it is 16:9; others get its area.
        title: a line over the sheet; the file's name by default.
    """

    needs_canvas = True

    def __init__(
        self,
        path: str | Path,
        *,
        num_frames: int | None = None,
        cell: int = 272,
        title: str | None = None,
    ) -> None:
        super().__init__(path)
        self._wanted = None if num_frames is None else set(evenly(num_frames))
        self.cell, self.title = cell, title
        self._columns: list[Column] = []
        self._stride, self._count = 1, 0
        self._total, self._loss = 0, 0.0

    def add(self, chunk: GazedChunk) -> None:
        if self._count == 0:
            self._start(chunk)
        for index, facts in enumerate(frame_facts(chunk)):
            if self._wants(self._count):
                self._columns.append(Column(facts, self._pictures(chunk, index), _foot(facts)))
            if len(self._columns) > MAX_COLUMNS * _THINNING:
                self._columns = self._columns[::_THINNING]
                self._stride *= _THINNING
            self._count += 1
            self._kept += facts.kept
            self._total += facts.total
            self._loss += facts.loss or 0.0

    def _wants(self, frame: int) -> bool:
        if self._wanted is not None:
            return frame in self._wanted
        return frame % self._stride == 0

    def _start(self, chunk: GazedChunk) -> None:
        self.source, self.pyramid = chunk.source, chunk.gaze.pyramid
        tiles = self.source.tiles
        self.size = picture_size(tiles, self.cell)
        self._maps = patch_maps(self.pyramid, tiles, *self.size, 1)
        self._kept = np.zeros(len(self.pyramid.scales), dtype=np.int64)  # a scale each

    def _pictures(self, chunk: GazedChunk, frame: int) -> tuple[np.ndarray, ...]:
        tiles, pixels = chunk.source.tiles, chunk.frames[:, frame]
        rows = [frame_picture(chunk, frame, self.size)]
        looks = seen_at_scales(pixels, self.pyramid)
        for look, patches, where in zip(looks, chosen(chunk, frame), self._maps, strict=True):
            looked = stitched(look, tiles, self.size)
            rows.append(np.where(where.pick(patches)[..., None], looked, np.array(PANEL, np.uint8)))
        rows.append(stitched(chunk.canvas_frames[:, frame], tiles, self.size))
        return tuple(rows)

    def finish(self) -> None:
        with replacing(self.path) as temporary:
            self.image().save(temporary, format="PNG")

    def columns(self) -> list[Column]:
        """The frames that would be on the sheet by now."""
        return [self._columns[index] for index in evenly(len(self._columns))]

    def image(self) -> Image.Image:
        """The sheet of what was shown up to now."""
        return lay_out(self.columns(), self._rows(), self._title(), self._subtitle())

    def _title(self) -> str:
        path = self.source.path
        return self.title or (Path(path).name if path else "video")

    def _subtitle(self) -> str:
        tiles = self.source.tiles
        kept, total = int(self._kept.sum()), self._total
        frames = "frame" if self._count == 1 else "frames"
        loss = f"   \u00b7   mean canvas loss {self._loss / self._count:.3f}" if self._loss else ""
        return (
            f"{tiles.width} x {tiles.height}, {self._count} {frames}, "
            f"{tiles.columns} x {tiles.rows} tiles   \u00b7   "
            f"{kept:,} of {total:,} patches kept ({percent(kept / total)}){loss}"
        )

    def _rows(self) -> list[Row]:
        tiles, pyramid = self.source.tiles, self.pyramid
        colours = scale_colours(len(pyramid.scales)).tolist()
        scales = [
            Row(
                f"{scale} px",
                f"{kept / self._count:.1f} of {tiles.num_tiles * cells}\na frame",
                tuple(colour),
            )
            for scale, kept, cells, colour in zip(
                pyramid.scales, self._kept, pyramid.cells, colours, strict=True
            )
        ]
        return [Row("video"), *scales, Row("canvas", "from the\npatches alone")]


def _foot(facts: FrameFacts) -> tuple[str, ...]:
    loss = "" if facts.loss is None else f"loss {facts.loss:.3f}"
    return loss, f"{percent(sum(facts.kept) / facts.total)} kept"


def picture_size(tiles: TileGrid, cell: int) -> tuple[int, int]:
    """Width and height of a small picture that is `cell` pixels wide if it is 16:9.

    Others get the same area: portrait sheets would be endlessly high.
    """
    zoom = math.sqrt(cell * cell * 9 / 16 / (tiles.width * tiles.height))
    return max(1, round(tiles.width * zoom)), max(1, round(tiles.height * zoom))


def evenly(count: int) -> list[int]:
    """At most `MAX_COLUMNS` of `count` numbers, from the first to the last."""
    number = min(MAX_COLUMNS, count)
    return [round(k * (count - 1) / max(1, number - 1)) for k in range(number)]
