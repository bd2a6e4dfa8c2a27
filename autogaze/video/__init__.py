"""Video files in, square tiles out: decoding, timestamps, tiling, chunks and writing.

At most a few frames or one chunk of tiles are in memory, however long the video is. Names are
imported when they are first used, since tiling and still images need no PyAV.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.video.chunks import ChunkReader, VideoChunk
    from autogaze.video.container import VideoInfo
    from autogaze.video.reader import Frame, Video
    from autogaze.video.tiling import cut_tiles, plan_tiles, stitch_tiles
    from autogaze.video.writer import VideoWriter

_MODULES = {
    "ChunkReader": "chunks",
    "Frame": "reader",
    "Video": "reader",
    "VideoChunk": "chunks",
    "VideoInfo": "container",
    "VideoWriter": "writer",
    "cut_tiles": "tiling",
    "plan_tiles": "tiling",
    "stitch_tiles": "tiling",
}
_IN_MOTION = ("MotionField", "NEW_CONTENT", "motion_map")
_RENAMED = {"open_video": "Video", "read_chunks": "ChunkReader"}

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
        new = _RENAMED[name]
        warnings.warn(
            f"autogaze.video.{name} is now called {new}", DeprecationWarning, stacklevel=2
        )
        return __getattr__(new)
    if name in _IN_MOTION:
        warnings.warn(f"import {name} from autogaze.video.motion", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module("autogaze.video.motion"), name)
    if name not in _MODULES:
        raise AttributeError(f"module 'autogaze.video' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autogaze.video.{_MODULES[name]}"), name)
