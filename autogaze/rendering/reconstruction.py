"""The canvas reconstruction as a video: what is left of the original after the gaze."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from autogaze.pipeline import GazedChunk
from autogaze.rendering.base import VideoRendering
from autogaze.rendering.pictures import stitched


class ReconstructionVideo(VideoRendering):
    """Every frame as the canvas shows it, at the source's size or a bounded one."""

    needs_canvas = True

    def draw(self, chunk: GazedChunk) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for index in range(chunk.gaze.num_frames):
            yield stitched(chunk.canvas_frames[:, index], chunk.source.tiles, self.size)
