"""Video decoders of the training datasets: PyAV, torchcodec, or OpenCV on machines without PyAV."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8

from autogaze.checks import why_absent
from autogaze.errors import CorruptVideoError, MissingExtraError, TrainingError, VideoError
from autogaze.video.decoders import DecoderName, check_decoder
from autogaze.video.structure import boxes, missing_bytes, shown_frames

log = logging.getLogger("autogaze.datasets")


class OpenVideo(ABC):
    """Base of the opened videos."""

    @property
    @abstractmethod
    def num_frames(self) -> int | None:
        """Number of displayed frames; None if unknown."""

    @abstractmethod
    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """RGB frames as displayed, from number `first` to `last` or to the end.

        Raises:
            VideoError: damaged, or no frame lies there.
        """


Decoder = Callable[[Path], OpenVideo]
"""Opens a video; raises VideoError for a file that is none."""


class PyAVVideo(OpenVideo):
    """A video that PyAV reads, and torchcodec may decode; arguments as of `autogaze.video.Video`."""

    def __init__(
        self,
        path: Path,
        *,
        stream: int | None = None,
        decoder: DecoderName = "pyav",
        device: torch.device | None = None,
    ) -> None:
        from autogaze.video.reader import Video  # imports PyAV

        self._path, self._stream = path, stream
        self._video = Video(path, stream=stream, decoder=decoder, device=device)

    @property
    def num_frames(self) -> int | None:
        return _counted(self._path, self._stream, self._path.stat().st_mtime_ns)

    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for frame in self._video.frames(first=first, last=last):
            yield frame.pixels


@lru_cache(maxsize=4096)
def _counted(path: Path, stream: int | None, changed: int) -> int:
    """Number of frames of a file that was last changed at that time."""
    from autogaze.video.reader import Video

    return Video(path, stream=stream).count_frames()


class OpenCVVideo(OpenVideo):
    """A video that OpenCV decodes.

    Frames are counted from the beginning, since OpenCV does not find all of them by seeking. It
    chooses the video stream itself, the first one, and leaves pixels as they are stored where
    they are not square.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _capture(path).release()
        self._num_frames = _grabbed(path, path.stat().st_mtime_ns)

    @property
    def num_frames(self) -> int | None:
        return self._num_frames

    def frames(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        capture = _capture(self.path)
        number = 0
        try:
            while number < first and capture.grab():
                number += 1
            while number >= first and (last is None or number <= last):
                found, bgr = capture.read()
                if not found:
                    break
                number += 1
                yield np.ascontiguousarray(bgr[..., ::-1])
        finally:
            capture.release()
        short = number < (self.num_frames or 0) or missing_bytes(self.path) > 0
        if short and (last is None or number <= last):
            raise CorruptVideoError(
                f"{self.path}: frame {number} of {self.num_frames} cannot be decoded"
            )
        if number <= first:
            raise VideoError(f"{self.path}: has {number} frames, none from number {first} on")


def _capture(path: Path) -> Any:
    import cv2

    if not os.path.isfile(path):
        raise VideoError(f"{path}: {why_absent(path)}")
    # Absolute, since FFmpeg takes what stands before a colon for a protocol.
    capture = cv2.VideoCapture(os.path.abspath(path))
    if not capture.isOpened():
        raise VideoError(f"{path}: OpenCV finds no video in it")
    return capture


@lru_cache(maxsize=4096)
def _grabbed(path: Path, changed: int) -> int | None:
    """Number of displayed frames of a file that was last changed at that time.

    Only an MP4's index tells it. OpenCV's number counts frames that an edit list hides, and is an
    estimate for other containers, of which all frames are decoded.
    """
    import cv2

    if (shown := shown_frames(path)) is not None:
        return shown
    capture = _capture(path)
    try:
        names = {name for name, _ in boxes(path)}
        if "moov" in names and "moof" not in names:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        count = 0
        while capture.grab():
            count += 1
        return count or None
    finally:
        capture.release()


DECODERS = ("auto", "opencv", "pyav", "torchcodec")
"""Names of decoders; `auto` is PyAV where it is installed, else OpenCV."""


def choose_decoder(
    name: str = "auto", stream: int | None = None, device: torch.device | None = None
) -> Decoder:
    """The decoder of a name, one of `DECODERS`.

    Args:
        stream: number of the video stream, None for the default one; OpenCV cannot choose.
        device: where frames go, if that is not the CPU: for a GPU `auto` tries torchcodec first.

    Raises:
        TrainingError: another name, PyAV is needed and cannot be imported, or OpenCV for a stream.
        MissingExtraError: OpenCV or torchcodec is needed and not installed.
        VideoError: torchcodec cannot be loaded.
    """
    if name not in DECODERS:
        raise TrainingError(f"the decoder must be one of {', '.join(DECODERS)}, got {name!r}")
    if name != "opencv":
        try:
            import av  # noqa: F401 - only whether it is there
        except ImportError as error:
            if name != "auto":
                raise TrainingError(
                    f"PyAV cannot be imported ({error}): pip install av, or decode by opencv"
                ) from error
            log.warning("PyAV cannot be imported (%s): OpenCV decodes the videos", error)
        else:
            check_decoder(name)
            return partial(PyAVVideo, stream=stream, decoder=cast(DecoderName, name), device=device)
    if stream is not None:
        raise TrainingError(f"OpenCV cannot choose video stream {stream}: decode by pyav")
    try:
        import cv2  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtraError(
            "opencv-python-headless", "opencv", "decoding without PyAV"
        ) from error
    return OpenCVVideo
