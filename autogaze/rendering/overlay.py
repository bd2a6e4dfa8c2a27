"""Videos of a gaze: the overlay on its source, the canvas reconstruction, and what is shown beside them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import VideoRendering, chosen_patches, frame_picture, scale_pictures
from autogaze.rendering.painter import (
    FAINT,
    GROUND,
    INK,
    PANEL,
    Colour,
    draw_overlay,
    font,
    patch_maps,
    percent,
    scale_colours,
    stitched,
)
from autogaze.rendering.summary import FrameStats, frame_stats


class OverlayVideo(VideoRendering):
    """Chosen patches outlined in their scale's colour, the rest dimmed; a caption below."""

    def prepare(self, chunk: GazedChunk) -> None:
        pyramid, tiles = chunk.gaze.pyramid, chunk.source.tiles
        line = 1 if max(self.size) < 640 else 2
        self._maps = patch_maps(pyramid, tiles, *self.size, line)
        self._colours = scale_colours(len(pyramid.scales))
        self._caption = Caption(pyramid, self.size[0], tiles.num_tiles)

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index, stats in enumerate(frame_stats(chunk)):
            frame = frame_picture(chunk, index, self.size)
            patches = chosen_patches(chunk, index)
            drawn = draw_overlay(frame, patches, self._maps, self._colours)
            yield np.concatenate([drawn, self._caption.draw(stats)])


class ReconstructionVideo(VideoRendering):
    """The canvas reconstruction of every frame."""

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index in range(chunk.gaze.num_frames):
            yield stitched(chunk.canvas_frames[:, index], chunk.source.tiles, self.size)


class TextSpan(NamedTuple):
    """Text in one colour, after a swatch in the colour of a scale if there is one."""

    text: str
    colour: Colour = INK
    swatch: Colour | None = None


class Caption:
    """Caption below an overlay: frame, time, and patches kept.

    All captions of a video have the height that the longest possible one needs.
    """

    def __init__(self, pyramid: PatchPyramid, width: int, num_tiles: int) -> None:
        self.pyramid, self.width = pyramid, width
        self.colours = [tuple(colour) for colour in scale_colours(len(pyramid.scales)).tolist()]
        total = num_tiles * pyramid.num_patches
        longest = FrameStats(88888, 8888.8, tuple(num_tiles * n for n in pyramid.cells), total, 0.8)
        for self.size in range(max(11, min(20, round(width / 44))), 3, -1):
            self._widths = [self._measure(group) for group in self._groups(longest)]
            if max(self._widths) <= width - 1.6 * self.size:
                break
        self._lines = self._break()
        line = round(self.size * 1.55)
        self.height = 2 * ((len(self._lines) * line + round(self.size * 0.6) + 1) // 2)

    def draw(self, stats: FrameStats) -> UInt8[np.ndarray, "h W 3"]:
        """The caption of one frame."""
        image = Image.new("RGB", (self.width, self.height), PANEL)
        pen = ImageDraw.Draw(image)
        groups, margin = self._groups(stats), self.size * 0.8
        for number, line in enumerate(self._lines):
            y = self.size * (0.4 + 1.55 * number) + self.size * 0.7
            gap = self.width - 2 * margin - sum(self._widths[index] for index in line)
            x = margin
            for index in line:
                self._write(pen, x, y, groups[index])
                x += self._widths[index] + (gap / (len(line) - 1) if len(line) > 1 else 0)
        return np.asarray(image)

    def _groups(self, stats: FrameStats) -> list[list[TextSpan]]:
        """Groups of spans without line breaks: the frame, the share kept, the count per scale."""
        when = [TextSpan(f"frame {stats.number}"), TextSpan(f"   {stats.seconds:.2f} s", FAINT)]
        share = [
            TextSpan(f"{sum(stats.kept)} of {stats.total} patches  "),
            TextSpan(percent(stats.share)),
        ]
        if stats.loss is not None:
            share.append(TextSpan(f"   loss {stats.loss:.3f}", FAINT))
        scales = [
            TextSpan(f"{scale} px: {count}  ", swatch=colour)
            for colour, scale, count in zip(
                self.colours, self.pyramid.scales, stats.kept, strict=True
            )
        ]
        return [when, share, scales]

    def _measure(self, group: list[TextSpan]) -> float:
        letters = sum(font(self.size).getlength(part.text) for part in group)
        return letters + sum(1.25 * self.size for part in group if part.swatch)

    def _break(self) -> list[list[int]]:
        """Indices of the groups on each line, as many as fit."""
        lines: list[list[int]] = [[]]
        room = self.width - 2 * 0.8 * self.size
        for index, width in enumerate(self._widths):
            used = sum(self._widths[i] + self.size for i in lines[-1])
            if lines[-1] and used + width > room:
                lines.append([])
            lines[-1].append(index)
        return lines

    def _write(self, pen: ImageDraw.ImageDraw, x: float, y: float, group: list[TextSpan]) -> None:
        half = 0.38 * self.size
        for part in group:
            if part.swatch:
                square = (x, y - half, x + 2 * half, y + half)
                pen.rounded_rectangle(square, radius=2, outline=part.swatch, width=2)
                x += 1.25 * self.size
            pen.text((x, y), part.text, fill=part.colour, font=font(self.size), anchor="lm")
            x += font(self.size).getlength(part.text)


GAP = 8
"""Pixels between the pictures of scales."""


class SourceVideo(VideoRendering):
    """The frames that were gazed at, in a form that every browser plays."""

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index in range(chunk.gaze.num_frames):
            yield frame_picture(chunk, index, self.size)


class ScalesVideo(VideoRendering):
    """The chosen patches of every scale at that scale's resolution: two pictures a row, captions below."""

    def prepare(self, chunk: GazedChunk) -> None:
        pyramid, tiles = chunk.gaze.pyramid, chunk.source.tiles
        width, height = (max(2, side // 2) for side in self.size)
        self._picture = width, height
        self._maps = patch_maps(pyramid, tiles, width, height, 1)
        self._colours = [tuple(colour) for colour in scale_colours(len(pyramid.scales)).tolist()]
        self._text = max(10, min(18, round(width / 22)))
        self._caption = round(1.9 * self._text)
        self._columns = min(2, len(pyramid.scales))
        rows = -(-len(pyramid.scales) // self._columns)
        self._sheet = (
            self._columns * (width + GAP) - GAP,
            rows * (height + self._caption + GAP) - GAP,
        )

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        tiles, pyramid = chunk.source.tiles, chunk.gaze.pyramid
        for index, stats in enumerate(frame_stats(chunk)):
            image = Image.new("RGB", self._sheet, GROUND)
            pen = ImageDraw.Draw(image)
            pictures = scale_pictures(chunk, index, self._maps, self._picture)
            for level, picture in enumerate(pictures):
                row, column = divmod(level, self._columns)
                x = column * (self._picture[0] + GAP)
                y = row * (self._picture[1] + self._caption + GAP)
                image.paste(Image.fromarray(picture), (x, y))
                total = tiles.num_tiles * pyramid.cells[level]
                words = f"{pyramid.scales[level]} px", f"{stats.kept[level]} of {total}"
                self._label(pen, x, y + self._picture[1], self._colours[level], *words)
            yield np.asarray(image)

    def _label(
        self, pen: ImageDraw.ImageDraw, x: int, top: int, colour: Colour, name: str, counts: str
    ) -> None:
        """A bar in the scale's colour, its name, and how many of its patches were chosen."""
        y = top + self._caption // 2
        half = round(0.55 * self._text)
        pen.rectangle((x + 2, y - half, x + 5, y + half), fill=colour)
        pen.text((x + 12, y), name, fill=INK, font=font(self._text), anchor="lm")
        after = x + 12 + font(self._text).getlength(name) + self._text
        if after + font(self._text).getlength(counts) <= x + self._picture[0]:
            pen.text((after, y), counts, fill=FAINT, font=font(self._text), anchor="lm")
