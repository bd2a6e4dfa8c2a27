"""Overlay video: chosen patches outlined in their scale's colour, the rest dimmed."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import VideoRendering
from autogaze.rendering.caption import Caption
from autogaze.rendering.facts import chosen, frame_facts
from autogaze.rendering.palette import scale_colours
from autogaze.rendering.patch_map import PatchMap, patch_maps
from autogaze.rendering.pictures import frame_picture


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
