"""Where everything stands on a contact sheet: labels, pictures, numbers, white space."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from autogaze.geometry import PatchPyramid
from autogaze.rendering.facts import Column, percent
from autogaze.rendering.palette import FAINT, GROUND, INK, font, scale_colours

MARGIN, GAP, LABELS = 28, 8, 128
TITLE, TEXT, SMALL = 24, 17, 14


def lay_out(
    columns: Sequence[Column],
    pyramid: PatchPyramid,
    title: str,
    subtitle: str,
    row_notes: Sequence[str],
) -> Image.Image:
    """Draw the sheet.

    Args:
        columns: the frames, left to right; each has the frame, a picture a scale and the canvas.
        pyramid: whose scales the rows are.
        title: the large words on top; `subtitle` stands beside them.
        subtitle: smaller.
        row_notes: small print under each row's label.
    """
    height, width = columns[0].pictures[0].shape[:2]
    num_rows = len(pyramid.scales) + 2
    left, top = MARGIN + LABELS, MARGIN + 78
    size = (
        max(left + len(columns) * (width + GAP) - GAP + MARGIN, _width(title, subtitle)),
        top + num_rows * (height + GAP) + 2 * TEXT + MARGIN,
    )
    image = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN - 4), title, fill=INK, font=font(TITLE))
    end = MARGIN + font(TITLE).getlength(title) + 18
    pen.text((end, MARGIN + TITLE - 1), subtitle, fill=FAINT, font=font(SMALL), anchor="ls")
    _labels(pen, pyramid, row_notes, height, top)
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
        if facts.loss is not None:
            pen.text((x, y), f"loss {facts.loss:.3f}", fill=INK, font=font(TEXT), anchor="ls")
        kept = f"{percent(sum(facts.kept) / facts.total)} kept"
        pen.text((x, y + 1.3 * SMALL), kept, fill=FAINT, font=font(SMALL), anchor="ls")
    return image


def _labels(
    pen: ImageDraw.ImageDraw,
    pyramid: PatchPyramid,
    notes: Sequence[str],
    height: int,
    top: int,
) -> None:
    names = ["video", *(f"{scale} px" for scale in pyramid.scales), "canvas"]
    colours = [None, *map(tuple, scale_colours(len(pyramid.scales)).tolist()), None]
    for row, (name, colour, note) in enumerate(zip(names, colours, notes, strict=True)):
        y = top + row * (height + GAP)
        if colour:
            pen.rectangle((MARGIN, y, MARGIN + 4, y + height - 1), fill=colour)
        lines = note.split("\n") if note else []
        room = 1.25 * TEXT + 1.35 * SMALL * len(lines)
        text = y + max(0.0, (height - room) / 2)
        pen.text((MARGIN + 14, text), name, fill=INK, font=font(TEXT))
        for number, line in enumerate(lines):
            below = text + 1.35 * TEXT + 1.35 * SMALL * number
            pen.text((MARGIN + 14, below), line, fill=FAINT, font=font(SMALL))


def _width(title: str, subtitle: str) -> int:
    words = font(TITLE).getlength(title) + 18 + font(SMALL).getlength(subtitle)
    return int(words) + 2 * MARGIN
