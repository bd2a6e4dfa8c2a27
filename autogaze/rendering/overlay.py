"""Overlay video: chosen patches outlined in their scale's colour, the rest dimmed."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import VideoRendering
from autogaze.rendering.painter import (
    FrameFacts,
    PatchMap,
    chosen,
    frame_facts,
    frame_picture,
    patch_maps,
    percent,
    stitched,
)
from autogaze.rendering.palette import FAINT, INK, PANEL, font, scale_colours

# The strip under an overlay: which frame this is, and what was kept of it.


class Caption:
    """Draws captions of one width; their height is fixed by the longest one to come."""

    def __init__(self, pyramid: PatchPyramid, width: int, num_tiles: int) -> None:
        self.pyramid, self.width = pyramid, width
        self.colours = [tuple(colour) for colour in scale_colours(len(pyramid.scales)).tolist()]
        total = num_tiles * pyramid.num_patches
        longest = FrameFacts(88888, 8888.8, tuple(num_tiles * n for n in pyramid.cells), total, 0.8)
        for self.size in range(max(11, min(20, round(width / 44))), 3, -1):
            self._widths = [self._measure(piece) for piece in self._pieces(longest)]
            if max(self._widths) <= width - 1.6 * self.size:
                break
        self._lines = self._break()
        line = round(self.size * 1.55)
        self.height = 2 * ((len(self._lines) * line + round(self.size * 0.6) + 1) // 2)

    def draw(self, facts: FrameFacts) -> UInt8[np.ndarray, "h W 3"]:
        """The strip for one frame."""
        image = Image.new("RGB", (self.width, self.height), PANEL)
        pen = ImageDraw.Draw(image)
        pieces, margin = self._pieces(facts), self.size * 0.8
        for number, line in enumerate(self._lines):
            y = self.size * (0.4 + 1.55 * number) + self.size * 0.7
            gap = self.width - 2 * margin - sum(self._widths[index] for index in line)
            x = margin
            for index in line:
                self._write(pen, x, y, pieces[index])
                x += self._widths[index] + (gap / (len(line) - 1) if len(line) > 1 else 0)
        return np.asarray(image)

    # A piece is a run of (colour of a swatch or None, words, colour of the words).

    def _pieces(self, facts: FrameFacts) -> list[list[tuple]]:
        kept = sum(facts.kept)
        scales = [
            (colour, f"{scale} px: {count}  ", INK)
            for colour, scale, count in zip(
                self.colours, self.pyramid.scales, facts.kept, strict=True
            )
        ]
        share = [
            (None, f"{kept} of {facts.total} patches  ", INK),
            (None, percent(kept / facts.total), INK),
        ]
        if facts.loss is not None:
            share.append((None, f"   loss {facts.loss:.3f}", FAINT))
        when = [(None, f"frame {facts.number}", INK), (None, f"   {facts.seconds:.2f} s", FAINT)]
        return [when, share, scales]

    def _measure(self, piece: list[tuple]) -> float:
        letters = sum(font(self.size).getlength(words) for _, words, _ in piece)
        return letters + sum(1.25 * self.size for swatch, _, _ in piece if swatch)

    def _break(self) -> list[list[int]]:
        """Piece numbers, line by line, as many on a line as fit."""
        lines: list[list[int]] = [[]]
        room = self.width - 2 * 0.8 * self.size
        for index, width in enumerate(self._widths):
            used = sum(self._widths[i] + self.size for i in lines[-1])
            if lines[-1] and used + width > room:
                lines.append([])
            lines[-1].append(index)
        return lines

    def _write(self, pen: ImageDraw.ImageDraw, x: float, y: float, piece: list[tuple]) -> None:
        half = 0.38 * self.size
        for swatch, words, colour in piece:
            if swatch:
                pen.rounded_rectangle(
                    (x, y - half, x + 2 * half, y + half), radius=2, outline=swatch, width=2
                )
                x += 1.25 * self.size
            pen.text((x, y), words, fill=colour, font=font(self.size), anchor="lm")
            x += font(self.size).getlength(words)


def dim(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """A dark grey ghost of the frame, for what was not chosen: a quarter of its brightness."""
    red, green, blue = (frame[..., channel].astype(np.uint16) for channel in range(3))
    grey = (77 * red + 150 * green + 29 * blue) // 1024 + 8  # weights of BT.601
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def draw_overlay(
    frame: UInt8[np.ndarray, "H W 3"],
    chosen: Sequence[Bool[np.ndarray, " _"]],
    maps: Sequence[PatchMap],
    colours: UInt8[np.ndarray, "scales 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """One frame with its gaze drawn on it.

    Args:
        frame: as it is.
        chosen: a scale each, coarse to fine: which patches of all tiles were chosen.
        maps: a scale each: where those patches lie on the frame.
        colours: a scale each: of the outlines.
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


class OverlayVideo(VideoRendering):
    """The overlay as a video, with a caption under every frame."""

    def prepare(self, chunk: GazedChunk) -> None:
        pyramid, tiles = chunk.gaze.pyramid, chunk.source.tiles
        line = 1 if max(self.size) < 640 else 2
        self._maps = patch_maps(pyramid, tiles, *self.size, line)
        self._colours = scale_colours(len(pyramid.scales))
        self._caption = Caption(pyramid, self.size[0], tiles.num_tiles)

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index, facts in enumerate(frame_facts(chunk)):
            frame = frame_picture(chunk, index, self.size)
            drawn = draw_overlay(frame, chosen(chunk, index), self._maps, self._colours)
            yield np.concatenate([drawn, self._caption.draw(facts)])


# The canvas reconstruction as a video: what is left of the original after the gaze.


class ReconstructionVideo(VideoRendering):
    """Every frame as the canvas shows it, at the source's size or a bounded one."""

    needs_canvas = True

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index in range(chunk.gaze.num_frames):
            yield stitched(chunk.canvas_frames[:, index], chunk.source.tiles, self.size)
