"""Videos that are shown beside an overlay: the source itself, and the chosen patches scale by scale."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import VideoRendering, chosen_patches, frame_picture, frame_stats
from autogaze.rendering.painter import (
    FAINT,
    GROUND,
    INK,
    PANEL,
    font,
    patch_maps,
    scale_colours,
    seen_at_scales,
    stitched,
)

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
            chosen = chosen_patches(chunk, index)
            for level, resampled in enumerate(seen_at_scales(chunk.frames[:, index], pyramid)):
                row, column = divmod(level, self._columns)
                x = column * (self._picture[0] + GAP)
                y = row * (self._picture[1] + self._caption + GAP)
                inside = self._maps[level].pixels(chosen[level])[..., None]
                seen = stitched(resampled, tiles, self._picture)
                shown = np.where(inside, seen, np.array(PANEL, np.uint8))
                image.paste(Image.fromarray(shown), (x, y))
                total = tiles.num_tiles * pyramid.cells[level]
                self._label(
                    pen,
                    (x, y + self._picture[1]),
                    level,
                    f"{pyramid.scales[level]} px",
                    stats.kept[level],
                    total,
                )
            yield np.asarray(image)

    def _label(
        self,
        pen: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        level: int,
        name: str,
        kept: int,
        total: int,
    ) -> None:
        """A bar in the scale's colour, its name, and how many of its patches were chosen."""
        x, y = corner[0], corner[1] + self._caption // 2
        half = round(0.55 * self._text)
        pen.rectangle((x + 2, y - half, x + 5, y + half), fill=self._colours[level])
        pen.text((x + 12, y), name, fill=INK, font=font(self._text), anchor="lm")
        after = x + 12 + font(self._text).getlength(name) + self._text
        counts = f"{kept} of {total}"
        if after + font(self._text).getlength(counts) <= x + self._picture[0]:
            pen.text((after, y), counts, fill=FAINT, font=font(self._text), anchor="lm")
