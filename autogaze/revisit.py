"""A saved gaze and the video it was made at, together again: chunk by chunk, tile by tile."""

from collections.abc import Iterator
from pathlib import Path

from autogaze.errors import AutoGazeError, GeometryError, VideoError
from autogaze.gaze import Gaze
from autogaze.pipeline import GazedChunk
from autogaze.source import Source
from autogaze.video.decode import Frame, Video
from autogaze.video.tiling import cut_frame, empty_tiles

LATE = 1e-3
"""Seconds by which a frame may be shown at another time than the gaze says."""


class GazedVideo:
    """Iterates over the `GazedChunk`s of a gaze as they were when it was made.

    Frames are read by their numbers, so those that were left out then (by a rate, or because
    they could not be decoded) are left out again. One chunk is in memory at a time.

    Args:
        path: the video; it may have moved since.
        gaze: with a `source`, as `autogaze.gaze_video` and `autogaze gaze --out` make it.

    Attributes:
        source: where the gaze lies in the video.

    Raises:
        AutoGazeError: a gaze at no frames, or that does not know its video.
        GeometryError: tiles of another side than the gaze's pyramid.
        VideoError: no video, or one of another size; later, a frame that is not there or is
            shown at another time.
    """

    source: Source

    def __init__(self, path: str | Path, gaze: Gaze) -> None:
        if gaze.source is None:
            raise AutoGazeError(
                "this gaze does not know which frames of which video it was made at; gaze at "
                "video files, with `autogaze gaze VIDEO --out FILE`"
            )
        if gaze.num_frames == 0:
            raise AutoGazeError("this gaze is at no frames")
        self.path, self.gaze, self.source = Path(path), gaze, gaze.source
        tiles = self.source.tiles
        if tiles.side != gaze.pyramid.side:
            raise GeometryError(
                f"tiles of {tiles.side} pixels were gazed at through {gaze.pyramid}, which is made "
                f"for {gaze.pyramid.side}: the pixels that were seen cannot be cut again"
            )
        self._video = Video(path)
        info = self._video.info
        if (info.width, info.height) != (tiles.width, tiles.height):
            raise VideoError(
                f"{path}: has {info.width} x {info.height} pixels, but the gaze was made at a "
                f"video of {tiles.width} x {tiles.height}; give that video{self.called}"
            )

    @property
    def num_chunks(self) -> int:
        return -(-self.gaze.num_frames // self.source.chunk)

    def __iter__(self) -> Iterator[GazedChunk]:
        frames = self._frames()
        for start in range(0, self.gaze.num_frames, self.source.chunk):
            gaze = self.gaze.frames(start, min(start + self.source.chunk, self.gaze.num_frames))
            cut = empty_tiles(self.source.tiles, gaze.num_frames)
            for place in range(gaze.num_frames):
                cut_frame(next(frames).pixels, self.source.tiles, cut[:, place])
            yield GazedChunk(cut, gaze)

    def _frames(self) -> Iterator[Frame]:
        """The frames that were gazed at."""
        numbers = self.source.frame_indices
        found = self._video.frames(first=numbers[0], last=numbers[-1], skip_corrupt=True)
        for number, seconds in zip(numbers, self.source.timestamps, strict=True):
            frame = next((frame for frame in found if frame.index >= number), None)
            if frame is None or frame.index != number:
                raise VideoError(
                    f"{self.path}: the gaze was made at frames {numbers[0]} to {numbers[-1]}, but "
                    f"frame {number} cannot be read here; give the video that it was made "
                    f"at{self.called}"
                )
            if abs(frame.timestamp - seconds) > LATE:
                raise VideoError(
                    f"{self.path}: shows frame {number} at {frame.timestamp:.3f} s, but the gaze "
                    f"saw it at {seconds:.3f} s; give the video that it was made at{self.called}"
                )
            yield frame

    @property
    def called(self) -> str:
        """What the video was called then, for messages."""
        return f" ({self.source.path})" if self.source.path else ""
