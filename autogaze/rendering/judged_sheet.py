"""Frames across, and down what was gazed at, what can be made of it, and what that misses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.pipeline import GazedChunk
from autogaze.rendering.overlay import draw_overlay
from autogaze.rendering.painter import (
    Column,
    chosen,
    frame_facts,
    frame_picture,
    patch_maps,
    percent,
    seen_at_scales,
    stitched,
)
from autogaze.rendering.palette import scale_colours
from autogaze.rendering.sheet import Row, evenly, lay_out, picture_size
from autogaze.source import Source

GAIN = 6
"""Errors are shown so many times as bright."""

LINE = 15
"""Letters that fit beside a row."""


@dataclass(frozen=True)
class Judged:
    """One way to show some frames of a chunk, all tiles.

    Attributes:
        pictures: (tiles, shown, 3, S, S) in [0, 1].
        l1: (shown,) mean |picture - frame|, in [0, 1].
    """

    pictures: Float[Tensor, "tiles shown 3 S S"]
    l1: Float[Tensor, " shown"]


class JudgedSheet:
    """At most eight evenly spaced frames: each, its gaze, canvas, reconstruction, both errors.

    Args:
        gaze: at the whole video.
        source: where it lies.
        judge: whose reconstruction it is.
        cell: width of each small picture in pixels if it is 16:9; others get its area.
    """

    def __init__(self, gaze: Gaze, source: Source, judge: str, cell: int = 320) -> None:
        self._pyramid, self._source, self._judge = gaze.pyramid, source, judge
        self._wanted = set(evenly(gaze.num_frames))
        self._size = picture_size(source.tiles, cell)
        self._maps = patch_maps(gaze.pyramid, source.tiles, *self._size, 1)
        self._columns: list[Column] = []

    def places(self, first: int, num_frames: int) -> list[int]:
        """Which of the frames [first, first + num_frames) are shown, counted from `first`."""
        return [place for place in range(num_frames) if first + place in self._wanted]

    def add(
        self, chunk: GazedChunk, places: Sequence[int], canvas: Judged, reconstruction: Judged
    ) -> None:
        """The frames at some places of the next chunk."""
        facts = list(frame_facts(chunk))
        for number, place in enumerate(places):
            real = chunk.frames[:, place].float() / 255
            views = [view.pictures[:, number].cpu() for view in (canvas, reconstruction)]
            pictures = [_bytes(view) for view in views] + [_missed(view, real) for view in views]
            foot = (
                f"judge l1 {float(reconstruction.l1[number]):.4f}",
                f"canvas l1 {float(canvas.l1[number]):.4f}",
                f"{percent(sum(facts[place].kept) / facts[place].total)} kept",
            )
            column = (
                frame_picture(chunk, place, self._size),
                self._gazed(chunk, place),
                *(stitched(one, self._source.tiles, self._size) for one in pictures),
            )
            self._columns.append(Column(facts[place], column, foot))

    def _gazed(self, chunk: GazedChunk, place: int) -> UInt8[np.ndarray, "H W 3"]:
        """The gazed patches, as sharp as their scale and outlined in its colour, on a ghost."""
        seen = frame_picture(chunk, place, self._size).copy()
        patches = chosen(chunk, place)
        looks = seen_at_scales(chunk.frames[:, place], self._pyramid)
        for look, picked, where in zip(looks, patches, self._maps, strict=True):  # finest on top
            shown = stitched(look, self._source.tiles, self._size)
            np.copyto(seen, shown, where=where.pick(picked)[..., None])
        return draw_overlay(seen, patches, self._maps, scale_colours(len(patches)))

    def image(self, title: str, subtitle: str) -> Image.Image:
        """The sheet of what was shown up to now."""
        rows = (
            Row("video"),
            Row("gaze", "as sharp as each\nscale is: blue\ncoarse, pink fine"),
            Row("canvas", "the patches\nalone"),
            Row("judge", "\n".join(wrap(f"what {Path(self._judge).name} makes of them", LINE))),
            Row("canvas error", f"brightened\n{GAIN} times"),
            Row("judge's error", f"brightened\n{GAIN} times"),
        )
        return lay_out(self._columns, rows, title, subtitle)


def _bytes(pictures: Float[Tensor, "tiles 3 S S"]) -> UInt8[Tensor, "tiles 3 S S"]:
    return (pictures * 255).round().to(torch.uint8)


def _missed(
    pictures: Float[Tensor, "tiles 3 S S"], real: Float[Tensor, "tiles 3 S S"]
) -> UInt8[Tensor, "tiles 3 S S"]:
    """|picture - frame|, mean over the colours, as brightened grey."""
    error = GAIN * (pictures - real).abs().mean(1, keepdim=True)
    return _bytes(error.clamp(max=1).expand(-1, 3, -1, -1))
