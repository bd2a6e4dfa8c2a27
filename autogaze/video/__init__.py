"""Video files in, square tiles out: decoding, sampling, tiling, chunking and writing.

Nothing here holds more than a few frames or one chunk of tiles, however long the
video is.

Names are imported when they are first used, so that still images, tiles and plain
tensors need no PyAV.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.video.chunks import ChunkReader, VideoChunk, read_chunks
    from autogaze.video.info import VideoInfo
    from autogaze.video.motion import NEW_CONTENT, MotionField, motion_map
    from autogaze.video.reader import Frame, Video, open_video
    from autogaze.video.tiling import cut_tiles, plan_tiles, stitch_tiles
    from autogaze.video.writer import VideoWriter

_HOMES = {
    "ChunkReader": "chunks",
    "Frame": "reader",
    "MotionField": "motion",
    "NEW_CONTENT": "motion",
    "Video": "reader",
    "VideoChunk": "chunks",
    "VideoInfo": "info",
    "VideoWriter": "writer",
    "cut_tiles": "tiling",
    "motion_map": "motion",
    "open_video": "reader",
    "plan_tiles": "tiling",
    "read_chunks": "chunks",
    "stitch_tiles": "tiling",
}

__all__ = [
    "NEW_CONTENT",
    "ChunkReader",
    "Frame",
    "MotionField",
    "Video",
    "VideoChunk",
    "VideoInfo",
    "VideoWriter",
    "cut_tiles",
    "motion_map",
    "open_video",
    "plan_tiles",
    "read_chunks",
    "stitch_tiles",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autogaze.video' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"autogaze.video.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
