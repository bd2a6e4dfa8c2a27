"""Video files in, square tiles out: decoding, sampling, tiling, chunking and writing.

Nothing here holds more than a few frames or one chunk of tiles, however long the
video is.
"""

from autogaze.video.chunks import ChunkReader, VideoChunk, read_chunks
from autogaze.video.decode import Frame, Video, open_video
from autogaze.video.info import VideoInfo
from autogaze.video.motion import NEW_CONTENT, MotionField, motion_map
from autogaze.video.tiling import cut_tiles, plan_tiles, stitch_tiles
from autogaze.video.write import VideoWriter

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
