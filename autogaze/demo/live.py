"""Gazing at a webcam frame by frame: one stream per visitor, and the rate it runs at."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.clips import Clips
from autogaze.demo.selectors import SelectorPool
from autogaze.errors import AutoGazeError
from autogaze.gaze import Gaze
from autogaze.pipeline import CHUNK
from autogaze.reconstruction.canvas import Canvas
from autogaze.reconstruction.resample import resampled_scales
from autogaze.rendering.painter import draw_overlay, patch_maps, resized, scale_colours, stitched
from autogaze.source import TileGrid
from autogaze.video.tiling import cut_tiles, plan_tiles

LONGEST = 640
"""Longer side of the pictures shown, in pixels."""

REMEMBERED = 30
"""Frames over which rates are averaged."""


@dataclass(frozen=True)
class LiveSettings:
    """Settings of a webcam's gaze."""

    selector: str = "greedy"
    ratio: float | None = 0.1
    loss: float | None = None


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame of a webcam that was gazed at.

    Args:
        overlay: the frame, chosen patches outlined.
        canvas: what the patches chosen so far show.
        kept: chosen patches per scale, of `total`.
        loss: of the canvas, in [0, 1].
        milliseconds: of choosing, mean over the last frames.
        rate: frames per second that arrived and were gazed at, over the last frames.
        number: of frames so far.
    """

    overlay: UInt8[np.ndarray, "H W 3"]
    canvas: UInt8[np.ndarray, "H W 3"]
    kept: tuple[int, ...]
    total: int
    loss: float
    milliseconds: float
    rate: float
    number: int


class LiveGaze:
    """A selector fed frame by frame, with its canvas; both are reset after every chunk.

    Args:
        pool: that the selector is borrowed from until `close`.

    Raises:
        SelectorError: another selector than the page's, or a ratio or loss that it does not take.
    """

    def __init__(self, pool: SelectorPool, settings: LiveSettings) -> None:
        self.settings = settings
        self._pool = pool
        self._selector = pool.acquire(settings.selector)
        try:
            self._selector.settings(settings.ratio, settings.loss)
        except AutoGazeError:
            pool.release(settings.selector, self._selector)
            raise
        self._size_seen: tuple[int, int] | None = None
        self._number = self._fed = 0
        self._waiting: deque[tuple[np.ndarray, Tensor]] = deque()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._arrivals: deque[float] = deque(maxlen=REMEMBERED)
        self._is_closed = False

    def look(self, frame: UInt8[np.ndarray, "H W 3"]) -> LiveFrame | None:
        """Gaze at the next frame, on one tile.

        Returns:
            The last frame that was decided on; None while a selector that looks ahead waits for more.
        """
        self._arrivals.append(time.perf_counter())
        height, width = frame.shape[:2]
        if self._size_seen != (width, height):
            self._start(width, height)
        if self._fed == 0:
            self._stream = self._selector.stream(
                ratio=self.settings.ratio,
                loss=self.settings.loss,
                generator=torch.Generator().manual_seed(0),
            )
            self._canvas = Canvas(self._selector.pyramid, 1)
        tiles = cut_tiles([frame], self._grid)
        self._waiting.append((frame, tiles))
        began = time.perf_counter()
        gazes = [self._stream.step(Clips(tiles))]
        self._fed += 1
        if self._fed == CHUNK:  # as in a file, chunks are independent
            last = self._stream.finish()
            gazes += [last] if last is not None else []
            self._fed = 0
        self._seconds.append(time.perf_counter() - began)
        shown = None
        for gaze in gazes:
            for index in range(gaze.num_frames):
                shown = self._show(gaze.frames(index, index + 1))
        return shown

    def _show(self, gaze: Gaze) -> LiveFrame:
        """Draw the earliest frame that was not decided on before."""
        frame, tiles = self._waiting.popleft()
        pyramid = self._selector.pyramid
        unit = tiles[:, 0].float() / 255
        self._canvas.paint(resampled_scales(unit, pyramid), gaze.mask[:, 0])
        painted = (self._canvas.frames * 255).round().byte()
        chosen = [mask[:, 0].reshape(-1).numpy() for mask in gaze.masks()]
        self._number += 1
        return LiveFrame(
            draw_overlay(resized(frame, self._size), chosen, self._maps, self._colours),
            stitched(painted, self._grid, self._size),
            tuple(int(mask.sum()) for mask in chosen),
            gaze.num_clips * pyramid.num_patches,
            float(self._canvas.losses(unit).mean()),
            1000 * sum(self._seconds) / len(self._seconds),
            self._rate(),
            self._number,
        )

    def close(self) -> None:
        """Return the selector to the pool."""
        if not self._is_closed:
            self._is_closed = True
            self._pool.release(self.settings.selector, self._selector)

    def _start(self, width: int, height: int) -> None:
        """Prepare for frames of a size."""
        pyramid, self._size_seen = self._selector.pyramid, (width, height)
        self._grid: TileGrid = plan_tiles(width, height, pyramid.side, "one")
        zoom = min(1.0, LONGEST / max(width, height))
        self._size = max(1, round(width * zoom)), max(1, round(height * zoom))
        self._maps = patch_maps(pyramid, self._grid, *self._size, 2)
        self._colours = scale_colours(len(pyramid.scales))
        self._fed = 0
        self._waiting.clear()

    def _rate(self) -> float:
        """Frames per second over the last frames; 0 for the first."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(1e-9, self._arrivals[-1] - self._arrivals[0])
