"""Limits of the page: size and length of videos, and jobs at once."""

from dataclasses import dataclass, fields
from pathlib import Path

from autogaze.checks import is_number, whole
from autogaze.errors import AutoGazeError
from autogaze.video.frames import VideoInfo

SLACK = 0.5
"""Seconds by which a video may exceed the limit: one of 60.02 s is one of a minute."""

COUNTS = ("frames", "tiles", "jobs", "waiting", "live", "live_seconds")
"""Limits that are whole numbers."""


class LimitError(AutoGazeError):
    """A video is larger or longer than this page takes."""


@dataclass(frozen=True)
class Limits:
    """Limits of a page.

    Args:
        megabytes: of an uploaded file.
        seconds: of video per job.
        frames: gazed at per job.
        tiles: of a frame; larger frames are shrunk to fit.
        megapixels: of a frame.
        jobs: that run at once.
        waiting: jobs that wait for their turn; more are refused.
        live: webcams at once.
        live_seconds: of a webcam, after which it has to be started again.
        minutes: after which files of visitors who did not close the page are removed.

    Raises:
        AutoGazeError: a limit that is not a number above 0, or not whole where it counts things.
    """

    megabytes: float = 200
    seconds: float = 60
    frames: int = 1500
    tiles: int = 16
    megapixels: float = 36
    jobs: int = 1
    waiting: int = 32
    live: int = 4
    live_seconds: int = 600
    minutes: float = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in COUNTS and (whole(value) or 0) < 1:
                raise AutoGazeError(f"{field.name} must be a whole number above 0, got {value}")
            if not (is_number(value) and 0 < value < float("inf")):
                raise AutoGazeError(f"{field.name} must be a number above 0, got {value}")

    @property
    def bytes(self) -> int:
        """Of an uploaded file."""
        return int(self.megabytes * 2**20)

    def check_file(self, path: Path) -> None:
        """Raise `LimitError` for a file that is too large."""
        size = path.stat().st_size if path.exists() else 0  # missing files are reported later
        if size > self.bytes:
            raise LimitError(
                f"{path}: has {size / 2**20:.0f} MB, this page takes {self.megabytes:g} MB at most; "
                "send a shorter or smaller video"
            )

    def check_frame(self, path: Path, info: VideoInfo) -> None:
        """Raise `LimitError` for frames of too many pixels."""
        pixels = info.width * info.height / 1e6
        if pixels > self.megapixels:
            raise LimitError(
                f"{path}: has frames of {info.width} x {info.height} pixels, this page takes "
                f"{self.megapixels:g} megapixels at most; send a smaller version"
            )

    def check_length(self, path: Path, seconds: float) -> None:
        """Raise `LimitError` for too long a part of a video, as its header or its frames say."""
        if seconds > self.seconds + SLACK:
            raise LimitError(
                f"{path}: {_clock(seconds)} were asked for, this page takes {self.seconds:g} s at "
                "most; set where to start and to end, or send a shorter video"
            )

    def check_frames(self, path: Path, num_frames: int) -> None:
        """Raise `LimitError` for too many frames."""
        if num_frames > self.frames:
            raise LimitError(
                f"{path}: {num_frames:,} frames were asked for, this page takes {self.frames:,} at "
                "most; look at fewer frames per second, or at a shorter part"
            )


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} minutes"
