"""Videos as training sees them: square frames of one size, from a file or from memory."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import CorruptVideoError, MissingExtraError, TrainingError, VideoError
from autogaze.utils.seeding import integer

# Who decodes videos: PyAV, or OpenCV on machines that do not have it.

log = logging.getLogger("autogaze.datasets")


class OpenVideo(ABC):
    """A video file whose header was read.

    Attributes:
        num_frames: as the container says, so not to be relied on; None if unknown.
    """

    num_frames: int | None

    @abstractmethod
    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """RGB frames as displayed, from number `first` to `last` or to the end.

        Raises:
            VideoError: damaged, or no frame lies there.
        """


Decoder = Callable[[Path], OpenVideo]
"""Opens a video; raises `VideoError` for what is none."""


class PyAVVideo(OpenVideo):
    """A video that PyAV decodes; see `autogaze.video`."""

    def __init__(self, path: Path) -> None:
        from autogaze.video.reader import Video  # decoded clips are trained on without PyAV

        self._video = Video(path)
        self.num_frames = self._video.info.num_frames

    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """See `OpenVideo`."""
        for frame in self._video.frames(first=first, last=last):
            yield frame.pixels


class OpenCVVideo(OpenVideo):
    """A video that OpenCV decodes.

    Frames are counted from the beginning, since OpenCV does not find all of them by seeking.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._open()
        import cv2

        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        self.num_frames = promised if promised > 0 else None

    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """See `OpenVideo`."""
        capture = self._open()
        number = 0
        try:
            while number < first and capture.grab():
                number += 1
            while number >= first and (last is None or number <= last):
                found, pixels = capture.read()
                if not found:
                    break
                number += 1
                yield np.ascontiguousarray(pixels[..., ::-1])  # it gives BGR
        finally:
            capture.release()
        # Of a container that does not count its frames OpenCV's number is one too high at times.
        promised = (self.num_frames or 0) - 1
        if number < promised and (last is None or number <= last):
            raise CorruptVideoError(
                f"{self.path}: frame {number} cannot be decoded, of {self.num_frames} promised"
            )
        if number <= first:
            raise VideoError(f"{self.path}: has {number} frames, none from number {first} on")

    def _open(self) -> Any:
        import cv2

        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise VideoError(f"{self.path}: OpenCV finds no video in it")
        return capture


def choose_decoder(name: str = "auto") -> Decoder:
    """The decoder of a name: `pyav`, `opencv`, or `auto`, PyAV where it is installed.

    Raises:
        TrainingError: another name, or PyAV is asked for and cannot be imported.
        MissingExtraError: OpenCV is needed and not installed.
    """
    if name not in ("auto", "pyav", "opencv"):
        raise TrainingError(f"the decoder must be auto, pyav or opencv, got {name!r}")
    if name != "opencv":
        try:
            import av  # noqa: F401 - only whether it is there
        except ImportError as error:
            if name == "pyav":
                raise TrainingError(
                    f"PyAV cannot be imported ({error}): pip install av, or decode by opencv"
                ) from error
            log.warning("PyAV cannot be imported (%s): OpenCV decodes the videos", error)
        else:
            return PyAVVideo
    try:
        import cv2  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtraError(
            "opencv-python-headless", "opencv", "decoding without PyAV"
        ) from error
    return OpenCVVideo


# Which frames of a video make a clip.


@dataclass(frozen=True)
class Window:
    """How clips are cut out of videos.

    Args:
        clip_len: frames of a clip.
        stride: of them, this many frames apart.
        random: where the clip starts is drawn anew in every epoch; else it starts at the
            first frame.
        every: a video gives all clips that lie side by side in it, not only the first.

    Raises:
        TrainingError: numbers below 1, or windows both random and side by side.
    """

    clip_len: int = 16
    stride: int = 1
    random: bool = False
    every: bool = False

    def __post_init__(self) -> None:
        for name in ("clip_len", "stride"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.random and self.every:
            raise TrainingError("windows either start anywhere or lie side by side, not both")

    @property
    def span(self) -> int:
        """Frames from the first of the clip to its last, both included."""
        return (self.clip_len - 1) * self.stride + 1

    def starts(self, num_frames: int) -> range:
        """First frames of the clips that lie side by side in a video, of one at least."""
        return range(0, max(1, num_frames - self.span + 1), self.clip_len * self.stride)

    def draw(self, num_frames: int, generator: torch.Generator) -> int:
        """Where a clip starts that may start anywhere in the video."""
        return integer(generator, max(1, num_frames - self.span + 1))


class Footage(ABC):
    """One video.

    Attributes:
        num_frames: as far as is known beforehand; None if it is not.
    """

    num_frames: int | None

    @abstractmethod
    def clip(self, start: int, window: Window) -> UInt8[Tensor, "T 3 S S"]:
        """The frames of one clip; a video that is too short shows its last frame on.

        Raises:
            VideoError: damaged, or too short to have frame `start`.
        """


class FileFootage(Footage):
    """A video that is decoded when it is asked for.

    Raises:
        VideoError: the file cannot be read, or has no frames.
    """

    def __init__(self, path: Path, side: int, decoder: Decoder) -> None:
        self.side = side
        self._video = decoder(path)
        self.num_frames = self._video.num_frames

    def clip(self, start: int, window: Window) -> UInt8[Tensor, "T 3 S S"]:
        """See `Footage`."""
        decoded = self._video.frames(start, start + window.span - 1)
        frames = [
            square(torch.from_numpy(pixels).permute(2, 0, 1), self.side)
            for number, pixels in enumerate(decoded)
            if number % window.stride == 0
        ]
        return torch.stack(frames + frames[-1:] * (window.clip_len - len(frames)))

    def squares(self) -> Iterator[UInt8[Tensor, "3 S S"]]:
        """All frames."""
        for pixels in self._video.frames():
            yield square(torch.from_numpy(pixels).permute(2, 0, 1), self.side)


@dataclass(frozen=True)
class HeldFootage(Footage):
    """A video in memory, decoded once.

    Attributes:
        path: its file.
        frames: all that could be decoded.
        num_frames: as the file says, so that clips are drawn as they are from files.
        damage: why there are no more, where that is not the video's end.
    """

    path: Path
    frames: UInt8[Tensor, "N 3 S S"]
    num_frames: int | None
    damage: str | None = None

    @classmethod
    def decode(cls, path: Path, side: int, decoder: Decoder) -> "HeldFootage":
        """Read a whole file, as far as that is possible."""
        frames: list[Tensor] = []
        num_frames, damage = None, None
        try:
            footage = FileFootage(path, side, decoder)
            num_frames = footage.num_frames
            frames.extend(footage.squares())
        except (VideoError, OSError) as error:
            damage = str(error)
        held = torch.stack(frames) if frames else torch.empty(0, 3, side, side, dtype=torch.uint8)
        return cls(path, held, num_frames, damage)

    def clip(self, start: int, window: Window) -> UInt8[Tensor, "T 3 S S"]:
        """See `Footage`."""
        have = len(self.frames)
        if self.damage is not None and start + window.span > have:
            raise VideoError(self.damage)
        if start >= have:
            raise VideoError(f"{self.path}: has {have} frames, none from number {start} on")
        numbers = torch.arange(window.clip_len) * window.stride + start
        # What lies behind the end shows the last frame that a clip of this stride has.
        last = start + (have - 1 - start) // window.stride * window.stride
        return self.frames[numbers.clamp(max=last)]


def hold(paths: Sequence[Path], side: int, decoder: Decoder) -> Mapping[Path, HeldFootage]:
    """Decode whole videos into memory, several at a time."""
    log.info("decoding %d videos into memory", len(paths))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        footage = list(threads.map(partial(HeldFootage.decode, side=side, decoder=decoder), paths))
    num_bytes = sum(held.frames.nbytes for held in footage)
    log.info("%d videos take %.2f GB of memory", len(paths), num_bytes / 1e9)
    return dict(zip(paths, footage, strict=True))


def square(frame: UInt8[Tensor, "3 H W"], side: int) -> UInt8[Tensor, "3 S S"]:
    """The shorter side resized (bilinear, antialiased) to `side`, the middle cut out."""
    height, width = frame.shape[1:]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    if size != (height, width):
        frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return frame[:, top : top + side, left : left + side]
