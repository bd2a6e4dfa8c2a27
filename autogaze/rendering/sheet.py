"""Contact sheet: frames across; frame, chosen patches per scale, and canvas down.

The layout follows the figures of the AutoGaze paper: the frames, then a row per scale with its
chosen patches only, at that scale's resolution, then the canvas reconstruction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import Rendering, frame_picture, scale_pictures, video_name
from autogaze.rendering.painter import (
    FAINT,
    GROUND,
    INK,
    Colour,
    font,
    patch_maps,
    percent,
    scale_colours,
    stitched,
)
from autogaze.rendering.summary import FrameStats, frame_stats
from autogaze.source import TileGrid
from autogaze.utils.files import replacing

MAX_COLUMNS = 8
_THINNING = 3  # shares no factor with a chunk's 16 frames, so columns fall on all parts of a chunk

MARGIN, GAP, LABELS = 28, 8, 128  # pixels
TITLE, TEXT, SMALL = 24, 17, 14  # font sizes


@dataclass(frozen=True)
class Column:
    """One frame of a sheet: its statistics, and its images from top to bottom."""

    stats: FrameStats
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]


@dataclass(frozen=True)
class RowLabel:
    """The name of a row, the notes under it, and the colour of its bar."""

    name: str
    notes: tuple[str, ...] = ()
    colour: Colour | None = None


class ContactSheet(Rendering):
    """At most eight evenly spaced frames of a video of any length, on one PNG.

    Those of the expected number of frames are kept and, where another number comes, of every s-th
    frame; whenever there are too many of these, every third is, and s triples, so that memory is
    constant.

    Args:
        num_frames: expected number of frames of the video, if known.
        cell: width of each image in pixels if it is 16:9; others get the same area.
        title: line above the sheet; the video's file name by default.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_frames: int | None = None,
        cell: int = 272,
        title: str | None = None,
    ) -> None:
        super().__init__(path)
        self._expected = num_frames
        self._wanted = set[int]() if num_frames is None else set(_evenly(num_frames))
        self._evenly_expected: list[Column] = []
        self.cell, self.title = cell, title
        self._columns: list[Column] = []
        self._stride, self._count = 1, 0
        self._total, self._loss = 0, 0.0

    def add(self, chunk: GazedChunk) -> None:
        if self._count == 0:
            self._start(chunk)
        for index, stats in enumerate(frame_stats(chunk)):
            strided = self._count % self._stride == 0
            if strided or self._count in self._wanted:
                column = Column(stats, self._pictures(chunk, index))
                self._columns += [column] if strided else []
                self._evenly_expected += [column] if self._count in self._wanted else []
            if len(self._columns) > MAX_COLUMNS * _THINNING:
                self._columns = self._columns[::_THINNING]
                self._stride *= _THINNING
            self._count += 1
            self._kept += stats.kept
            self._total += stats.total
            self._loss += stats.loss or 0.0

    def _start(self, chunk: GazedChunk) -> None:
        self.title = self.title or video_name(chunk)
        self.tiles, self.pyramid = chunk.source.tiles, chunk.gaze.pyramid
        self.size = _picture_size(self.tiles, self.cell)
        self._maps = patch_maps(self.pyramid, self.tiles, *self.size, 1)
        self._kept = np.zeros(len(self.pyramid.scales), dtype=np.int64)  # per scale

    def _pictures(self, chunk: GazedChunk, frame: int) -> tuple[np.ndarray, ...]:
        scales = scale_pictures(chunk, frame, self._maps, self.size)
        canvas = stitched(chunk.canvas_frames[:, frame], self.tiles, self.size)
        return (frame_picture(chunk, frame, self.size), *scales, canvas)

    def finish(self) -> None:
        with replacing(self.path) as temporary:
            self.image().save(temporary, format="PNG")

    def columns(self) -> list[Column]:
        """The columns of the frames added so far."""
        if self._count == self._expected:
            return self._evenly_expected
        return [self._columns[index] for index in _evenly(len(self._columns))]

    def image(self) -> Image.Image:
        """The sheet of the frames added so far."""
        return draw_sheet(self.columns(), self._labels(), self.title or "", self._subtitle())

    def _subtitle(self) -> str:
        tiles, kept, total = self.tiles, int(self._kept.sum()), self._total
        frames = "frame" if self._count == 1 else "frames"
        loss = f"   \u00b7   mean canvas loss {self._loss / self._count:.3f}" if self._loss else ""
        return (
            f"{tiles.width} x {tiles.height}, {self._count} {frames}, "
            f"{tiles.columns} x {tiles.rows} tiles   \u00b7   "
            f"{kept:,} of {total:,} patches kept ({percent(kept / total)}){loss}"
        )

    def _labels(self) -> list[RowLabel]:
        colours = scale_colours(len(self.pyramid.scales)).tolist()
        scales = []
        for scale, kept, cells, colour in zip(
            self.pyramid.scales, self._kept, self.pyramid.cells, colours, strict=True
        ):
            share = f"{kept / self._count:.1f} of {self.tiles.num_tiles * cells}"
            scales.append(RowLabel(f"{scale} px", (share, "per frame"), tuple(colour)))
        return [RowLabel("video"), *scales, RowLabel("canvas", ("from the", "patches alone"))]


def draw_sheet(
    columns: Sequence[Column], labels: Sequence[RowLabel], title: str, subtitle: str
) -> Image.Image:
    """Lay the frames out, left to right, under a title and beside the labels of their rows."""
    height, width = columns[0].pictures[0].shape[:2]
    left, top = MARGIN + LABELS, MARGIN + 78
    bottom = top + len(labels) * (height + GAP)
    end = MARGIN + font(TITLE).getlength(title) + 18  # of the title
    size = (
        max(
            left + len(columns) * (width + GAP) - GAP + MARGIN,
            int(end + font(SMALL).getlength(subtitle)) + MARGIN,
        ),
        bottom + 2 * TEXT + MARGIN,
    )
    image = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN - 4), title, fill=INK, font=font(TITLE))
    pen.text((end, MARGIN + TITLE - 1), subtitle, fill=FAINT, font=font(SMALL), anchor="ls")
    for row, label in enumerate(labels):
        _draw_label(pen, label, top + row * (height + GAP), height)
    for number, column in enumerate(columns):
        x = left + number * (width + GAP)
        stats = column.stats
        when, frame = f"{stats.seconds:.2f} s", f"frame {stats.number}"
        pen.text((x, top - 9), when, fill=INK, font=font(TEXT), anchor="ls")
        after = x + font(TEXT).getlength(when) + 10
        if after + font(SMALL).getlength(frame) <= x + width:
            pen.text((after, top - 9), frame, fill=FAINT, font=font(SMALL), anchor="ls")
        for row, pixels in enumerate(column.pictures):
            image.paste(Image.fromarray(pixels), (x, top + row * (height + GAP)))
        loss, share = (x, bottom + TEXT), (x, bottom + TEXT + 1.3 * SMALL)
        if stats.loss is not None:
            pen.text(loss, f"loss {stats.loss:.3f}", fill=INK, font=font(TEXT), anchor="ls")
        kept = f"{percent(stats.share)} kept"
        pen.text(share, kept, fill=FAINT, font=font(SMALL), anchor="ls")
    return image


def _draw_label(pen: ImageDraw.ImageDraw, label: RowLabel, y: int, height: int) -> None:
    if label.colour:
        pen.rectangle((MARGIN, y, MARGIN + 4, y + height - 1), fill=label.colour)
    room = 1.25 * TEXT + 1.35 * SMALL * len(label.notes)
    text = y + max(0.0, (height - room) / 2)
    pen.text((MARGIN + 14, text), label.name, fill=INK, font=font(TEXT))
    for line, note in enumerate(label.notes):
        below = text + 1.35 * TEXT + 1.35 * SMALL * line
        pen.text((MARGIN + 14, below), note, fill=FAINT, font=font(SMALL))


def _picture_size(tiles: TileGrid, cell: int) -> tuple[int, int]:
    """Width and height of an image that is `cell` pixels wide if it is 16:9, else of equal area."""
    zoom = math.sqrt(cell * cell * 9 / 16 / (tiles.width * tiles.height))
    return max(1, round(tiles.width * zoom)), max(1, round(tiles.height * zoom))


def _evenly(count: int) -> list[int]:
    """At most `MAX_COLUMNS` evenly spaced numbers of range(count), both ends included."""
    number = min(MAX_COLUMNS, count)
    return [round(k * (count - 1) / max(1, number - 1)) for k in range(number)]
