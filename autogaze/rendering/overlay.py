"""Videos of a gaze: the overlay on its source, and the canvas reconstruction."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import (
    FrameFacts,
    VideoRendering,
    chosen_patches,
    frame_facts,
    frame_picture,
)
from autogaze.rendering.painter import (
    FAINT,
    INK,
    PANEL,
    Colour,
    PatchMap,
    font,
    patch_maps,
    percent,
    scale_colours,
    stitched,
)


class OverlayVideo(VideoRendering):
    """Chosen patches outlined in their scale's colour, the rest dimmed; a caption below."""

    def prepare(self, chunk: GazedChunk) -> None:
        pyramid, tiles = chunk.gaze.pyramid, chunk.source.tiles
        line = 1 if max(self.size) < 640 else 2
        self._maps = patch_maps(pyramid, tiles, *self.size, line)
        self._colours = scale_colours(len(pyramid.scales))
        self._caption = Caption(pyramid, self.size[0], tiles.num_tiles)

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index, facts in enumerate(frame_facts(chunk)):
            frame = frame_picture(chunk, index, self.size)
            patches = chosen_patches(chunk, index)
            drawn = draw_overlay(frame, patches, self._maps, self._colours)
            yield np.concatenate([drawn, self._caption.draw(facts)])


class ReconstructionVideo(VideoRendering):
    """Every frame as the canvas shows it: what is left of the source after the gaze."""

    needs_canvas = True

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index in range(chunk.gaze.num_frames):
            yield stitched(chunk.canvas_frames[:, index], chunk.source.tiles, self.size)


def draw_overlay(
    frame: UInt8[np.ndarray, "H W 3"],
    chosen: Sequence[Bool[np.ndarray, " _"]],
    maps: Sequence[PatchMap],
    colours: UInt8[np.ndarray, "scales 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame with its gaze drawn on it.

    Args:
        frame: as it is.
        chosen: per scale, coarse to fine: which patches of all tiles were chosen.
        maps: per scale: where those patches lie on the frame.
        colours: per scale: of the outlines.
    """
    bright = np.zeros(frame.shape[:2], dtype=bool)
    outline = np.zeros(frame.shape[:2], dtype=np.uint8)  # 1 + level of the line on a pixel
    for level, (patches, where) in enumerate(zip(chosen, maps, strict=True)):
        picked = where.pick(patches)
        bright |= picked
        outline[picked & where.edges] = level + 1  # finest on top
    drawn = dim(frame)
    np.copyto(drawn, frame, where=bright[..., None])
    lines = outline > 0
    drawn[lines] = colours[outline[lines] - 1]
    return drawn


def dim(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """A dark grey ghost of the frame, for what was not chosen: a quarter of its brightness."""
    red, green, blue = (frame[..., channel].astype(np.uint16) for channel in range(3))
    grey = (77 * red + 150 * green + 29 * blue) // 1024 + 8  # weights of BT.601
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


class Words(NamedTuple):
    """Words in one colour, behind a swatch in the colour of a scale if there is one."""

    words: str
    colour: Colour = INK
    swatch: Colour | None = None


class Caption:
    """The strip under an overlay: which frame it is, and what was kept of it.

    All captions of a video have the height of the longest one to come.
    """

    def __init__(self, pyramid: PatchPyramid, width: int, num_tiles: int) -> None:
        self.pyramid, self.width = pyramid, width
        self.colours = [tuple(colour) for colour in scale_colours(len(pyramid.scales)).tolist()]
        total = num_tiles * pyramid.num_patches
        longest = FrameFacts(88888, 8888.8, tuple(num_tiles * n for n in pyramid.cells), total, 0.8)
        for self.size in range(max(11, min(20, round(width / 44))), 3, -1):
            self._widths = [self._measure(group) for group in self._groups(longest)]
            if max(self._widths) <= width - 1.6 * self.size:
                break
        self._lines = self._break()
        line = round(self.size * 1.55)
        self.height = 2 * ((len(self._lines) * line + round(self.size * 0.6) + 1) // 2)

    def draw(self, facts: FrameFacts) -> UInt8[np.ndarray, "h W 3"]:
        """The strip for one frame."""
        image = Image.new("RGB", (self.width, self.height), PANEL)
        pen = ImageDraw.Draw(image)
        groups, margin = self._groups(facts), self.size * 0.8
        for number, line in enumerate(self._lines):
            y = self.size * (0.4 + 1.55 * number) + self.size * 0.7
            gap = self.width - 2 * margin - sum(self._widths[index] for index in line)
            x = margin
            for index in line:
                self._write(pen, x, y, groups[index])
                x += self._widths[index] + (gap / (len(line) - 1) if len(line) > 1 else 0)
        return np.asarray(image)

    def _groups(self, facts: FrameFacts) -> list[list[Words]]:
        """What stays together on a line: the frame, the share kept, the count per scale."""
        when = [Words(f"frame {facts.number}"), Words(f"   {facts.seconds:.2f} s", FAINT)]
        share = [
            Words(f"{sum(facts.kept)} of {facts.total} patches  "),
            Words(percent(facts.share)),
        ]
        if facts.loss is not None:
            share.append(Words(f"   loss {facts.loss:.3f}", FAINT))
        scales = [
            Words(f"{scale} px: {count}  ", swatch=colour)
            for colour, scale, count in zip(
                self.colours, self.pyramid.scales, facts.kept, strict=True
            )
        ]
        return [when, share, scales]

    def _measure(self, group: list[Words]) -> float:
        letters = sum(font(self.size).getlength(part.words) for part in group)
        return letters + sum(1.25 * self.size for part in group if part.swatch)

    def _break(self) -> list[list[int]]:
        """Numbers of the groups, line by line, as many on a line as fit."""
        lines: list[list[int]] = [[]]
        room = self.width - 2 * 0.8 * self.size
        for index, width in enumerate(self._widths):
            used = sum(self._widths[i] + self.size for i in lines[-1])
            if lines[-1] and used + width > room:
                lines.append([])
            lines[-1].append(index)
        return lines

    def _write(self, pen: ImageDraw.ImageDraw, x: float, y: float, group: list[Words]) -> None:
        half = 0.38 * self.size
        for part in group:
            if part.swatch:
                square = (x, y - half, x + 2 * half, y + half)
                pen.rounded_rectangle(square, radius=2, outline=part.swatch, width=2)
                x += 1.25 * self.size
            pen.text((x, y), part.words, fill=part.colour, font=font(self.size), anchor="lm")
            x += font(self.size).getlength(part.words)
