"""Where everything stands on a contact sheet: labels, pictures, numbers, white space."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from autogaze.rendering.facts import Column
from autogaze.rendering.palette import FAINT, GROUND, INK, Colour, font

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
