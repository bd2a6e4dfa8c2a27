"""Video files in, square tiles out: decoding, timestamps, tiling, chunks and writing.

At most a few frames or one chunk of tiles are in memory, however long the video is. Names are
imported when they are first used, since tiling and still images need no PyAV.
"""

import importlib
from typing import TYPE_CHECKING, Any

from autogaze.errors import warn_renamed

if TYPE_CHECKING:
    from autogaze.video.chunks import ChunkReader, VideoChunk
    from autogaze.video.frames import VideoInfo
    from autogaze.video.reader import Frame, Video
    from autogaze.video.tiling import cut_tiles, plan_tiles, stitch_tiles
    from autogaze.video.writer import VideoWriter

_MODULES = {
    "ChunkReader": "chunks",
    "Frame": "reader",
    "Video": "reader",
    "VideoChunk": "chunks",
    "VideoInfo": "frames",
    "VideoWriter": "writer",
    "cut_tiles": "tiling",
    "plan_tiles": "tiling",
    "stitch_tiles": "tiling",
}
_RENAMED = {
    "open_video": "reader.Video",
    "read_chunks": "chunks.ChunkReader",
    "MotionField": "motion.MotionField",
    "NEW_CONTENT": "motion.NEW_CONTENT",
    "motion_map": "motion.motion_map",
}
"""Former names -> module and name; they work on for one release."""

__all__ = [
    "ChunkReader",
    "Frame",
    "Video",
    "VideoChunk",
    "VideoInfo",
    "VideoWriter",
    "cut_tiles",
    "plan_tiles",
    "stitch_tiles",
]


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warn_renamed(f"autogaze.video.{name}", f"autogaze.video.{_RENAMED[name]}")
        module, _, name = _RENAMED[name].partition(".")
    elif name in _MODULES:
        module = _MODULES[name]
    else:
        raise AttributeError(f"module 'autogaze.video' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autogaze.video.{module}"), name)
