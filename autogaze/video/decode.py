"""Frames of a video file, one at a time.

```python
video = open_video("long.mp4")
for frame in video.frames(start=3600, fps=2):
    frame.pixels  # (H, W, 3) uint8 RGB, the way up it is displayed
```

Memory does not grow with the video, and a late start costs a seek, not a decode.
Nothing stays open between two loops over `frames`.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from autogaze.errors import VideoError
from autogaze.video.decoder import Decoder
from autogaze.video.info import DEFAULT_FPS, Layout, VideoInfo, probe
from autogaze.video.motion import MotionField, check_motion
from autogaze.video.picture import to_rgb
from autogaze.video.sampling import Sampling, choose
from autogaze.video.stills import read_still

# Containers round timestamps to their tick; beyond this a tick is no rounding any more.
_LARGEST_SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """One displayed frame.

    Args:
        index: number in the whole video, from 0, lost frames included.
        timestamp: seconds since the video's first frame.
        pixels: (H, W, 3) RGB as displayed; transparent pixels lie on black.
        motion: what moved since the frame given before this one (all is new in the
            first), if asked for.
    """

    index: int
    timestamp: float
    pixels: UInt8[np.ndarray, "H W 3"]
    motion: MotionField | None = None


class Video:
    """A video file, or a still image as a video of one frame.

    Attributes:
        info: size, rate, duration and formats.
        num_corrupt: frames the last loop over `frames` had to leave out.

    Raises:
        VideoError: missing, a folder, not a video, no video stream, no frames.
    """

    info: VideoInfo
    num_corrupt: int

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.info, self._layout = probe(self._path)
        self.num_corrupt = 0

    def frames(
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        first: int | None = None,
        last: int | None = None,
        fps: float | None = None,
        skip_corrupt: bool = False,
        motion: bool = False,
    ) -> Iterator[Frame]:
        """Decode frames in the order they are shown.

        Args:
            start: seconds; frames from there on.
            end: seconds; frames before that.
            first: number of the first frame wanted, from 0, instead of seconds.
            last: number of the last frame wanted, included.
            fps: give only the frames on screen at start, start + 1/fps, ...; never
                one twice, so no more than the video has.
            skip_corrupt: leave damaged frames out and count them in `num_corrupt`,
                instead of raising.
            motion: fill `Frame.motion`; only some codecs can (see `video.motion`).

        Raises:
            VideoError: an impossible range or rate, a range that holds no frame, or
                motion asked of a codec that exports none.
            CorruptVideoError: a damaged or truncated stream; the message says at
                which frame. Frames before it have been given by then.
        """
        sampling = Sampling(start, end, first, last, fps)
        if motion:
            check_motion(self.info.codec, self.info.path)
        return self._frames(sampling, skip_corrupt, motion)

    def _frames(self, sampling: Sampling, skip_corrupt: bool, motion: bool) -> Iterator[Frame]:
        self.num_corrupt = 0
        frames = (
            self._still(sampling)
            if self._layout is None
            else self._decoded(self._layout, sampling, skip_corrupt, motion)
        )
        empty = True
        for frame in frames:
            empty = False
            yield frame
        if empty:
            length = "" if self.info.duration is None else f"; it lasts {self.info.duration:g} s"
            frames_there = f"{self.info.num_frames or 'an unknown number of'} frames"
            raise VideoError(
                f"{self._path}: no frame lies in {sampling}: the video has {frames_there}{length}"
            )

    def _still(self, sampling: Sampling) -> Iterator[Frame]:
        if not sampling.start and not sampling.first:
            yield Frame(0, 0.0, read_still(self._path))

    def _decoded(
        self, layout: Layout, sampling: Sampling, skip_corrupt: bool, motion: bool
    ) -> Iterator[Frame]:
        decoder = Decoder(
            self._path,
            layout.origin,
            self.info.fps or DEFAULT_FPS,
            layout.orientation,
            motion,
            skip_corrupt,
        )
        slack = max(1e-6, min(layout.tick / 2, _LARGEST_SLACK))
        is_first = True
        with closing(decoder.pictures(sampling.start or 0.0, sampling.first or 0)) as pictures:
            try:
                for picture in choose(pictures, sampling, slack):
                    moved = picture.motion
                    if moved is not None and is_first:
                        moved = moved.all_new()
                    is_first = False
                    try:
                        pixels = to_rgb(
                            picture.frame, layout.width, layout.height, layout.orientation
                        )
                    except av.FFmpegError:
                        matrix = int(picture.frame.colorspace)
                        decoder.lose(picture, f"no way from its colours, matrix {matrix}, to RGB")
                        continue
                    self.num_corrupt = decoder.num_corrupt
                    yield Frame(picture.index, picture.timestamp, pixels, moved)
            finally:
                self.num_corrupt = decoder.num_corrupt

    def __repr__(self) -> str:
        info = self.info
        rate = "still image" if info.is_image else f"{info.fps or 0:.4g} fps, {info.duration} s"
        return f"Video({info.path}, {info.width} x {info.height}, {info.codec}, {rate})"


def open_video(path: str | Path) -> Video:
    """Open a video or image file; see `Video`."""
    return Video(path)
