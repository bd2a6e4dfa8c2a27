"""Frames of one video or image, at the numbers that were sampled and the size a model takes.

They come in chunks. A video that is read twice, to select and then to cut, is decoded once where
its frames at that size fit into memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.clips import as_frames
from autogaze.errors import CorruptVideoError, MLLMError, VideoError
from autogaze.mllm.frames import resize_frames, upright
from autogaze.mllm.processor_output import StageClock
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:
    from autogaze.video.motion import MotionField
    from autogaze.video.reader import Frame, Video

MAX_HELD = 2**30
"""Bytes of resized frames that are held between two readings, of all videos that wait together."""

ASSUMED_RATE = 24.0
"""Frames per second of decoded frames that come without a rate, as transformers assumes."""

_TICK = 1e-3  # seconds by which containers round timestamps


class FrameSource:
    """A video file, an image file, or decoded frames.

    Args:
        frames: a path; or frames in any form of `autogaze.clips.as_frames`, 8-bit, of one video. PIL
            images are turned as their EXIF orientation says, as files are.
        rate: frames per second of decoded frames.
        skip_corrupt: a frame of a file that cannot be decoded is replaced by the one before.
        decoder: of a file, see `autogaze.video.Video`.
        device: where the frames go; a GPU may decode them.

    Attributes:
        path: of the file; None for decoded frames.
        height, width: pixels.
        num_frames: frames in all.
        rate: frames per second; None where nothing tells.

    Raises:
        VideoError: no such file, or no video.
        MLLMError: frames of another form.
    """

    def __init__(
        self,
        frames: Any,
        *,
        rate: float | None = None,
        skip_corrupt: bool = False,
        decoder: DecoderName = "auto",
        device: torch.device | None = None,
    ) -> None:
        self.path: Path | None = None
        self.rate = rate
        self._skip_corrupt = skip_corrupt
        self._video: "Video | None" = None
        self._frames: Tensor | None = None
        if isinstance(frames, str | Path):
            from autogaze.video.reader import Video  # which needs PyAV

            video = Video(frames, decoder=decoder, device=device)
            self._video = video
            self.path = Path(frames)
            self.height, self.width = video.info.height, video.info.width
            self.num_frames = video.count_frames()
            self.rate = video.info.rate if self.num_frames > 1 else rate
            return
        decoded = as_frames(upright(frames), MLLMError)
        if decoded.shape[0] != 1 or decoded.dtype != torch.uint8:
            raise MLLMError(
                "a decoded video or image is given as 8-bit frames (frames, 3, height, width), "
                f"got {tuple(decoded.shape)} of {decoded.dtype}"
            )
        self._frames = decoded[0]
        self.num_frames, _, self.height, self.width = self._frames.shape
        if not self.num_frames:
            raise MLLMError("a decoded video without frames was given")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def read(
        self, numbers: Sequence[int], motion: bool = False
    ) -> Iterator[tuple[float, UInt8[Tensor, "3 H W"], "MotionField | None"]]:
        """Seconds, pixels and motion of the frames with these ascending numbers.

        Raises:
            VideoError: a frame that is not there.
        """
        if self._frames is not None:
            if motion:
                raise MLLMError(
                    "decoded frames carry no motion vectors; give the video's file, or another "
                    "selector"
                )
            for number in numbers:
                yield number / (self.rate or ASSUMED_RATE), self._frames[number], None
            return
        for frame in self._found(numbers, motion):
            pixels = torch.from_numpy(np.ascontiguousarray(frame.pixels)).movedim(-1, 0)
            yield self._seconds(frame), pixels, frame.motion

    def _found(self, numbers: Sequence[int], motion: bool) -> Iterator["Frame"]:
        if self._video is None:
            return
        found = self._video.frames(
            first=numbers[0],
            last=numbers[-1],
            numbers=None if self._skip_corrupt else frozenset(numbers),
            skip_corrupt=self._skip_corrupt,
            motion=motion,
        )
        found = _replacing(found)
        following = before = next(found, None)  # of a video that begins behind the first number
        for number in numbers:
            moved: MotionField | None = None  # since the frame that was taken before
            while following is not None and following.index <= number:
                before, following = following, next(found, None)
                if before.motion is not None:
                    moved = before.motion if moved is None else moved.plus(before.motion)
            if before is not None and (before.index == number or self._skip_corrupt):
                if moved is None and before.motion is not None:
                    moved = before.motion.still()
                yield replace(before, motion=moved)
            else:
                raise VideoError(
                    f"{self.path}: frame {number} cannot be read; skip_corrupt=True takes the one "
                    "before it instead"
                )

    def _seconds(self, frame: "Frame") -> float:
        """When a frame is shown; of a constant rate by its number, not as its container rounds."""
        if not self.rate:
            return frame.timestamp
        nominal = frame.index / self.rate
        return nominal if abs(nominal - frame.timestamp) <= _TICK else frame.timestamp


def _replacing(frames: "Iterator[Frame]") -> "Iterator[Frame]":
    """Frames, whose errors say what `skip_corrupt` does here: it replaces frames, and drops none."""
    from autogaze.video.reader import LEAVES_OUT  # PyAV

    try:
        yield from frames
    except CorruptVideoError as error:
        hint = "skip_corrupt=True takes the frame before it instead"
        raise CorruptVideoError(str(error).replace(LEAVES_OUT, hint)) from error


@dataclass(frozen=True, eq=False)
class FrameChunk:
    """Consecutive sampled frames, at the model's size.

    Args:
        frames: (n, 3, h, w).
        motion: of every frame, if it was asked for.
    """

    frames: UInt8[Tensor, "n 3 h w"]
    motion: "tuple[MotionField, ...]" = ()


class SampledVideo:
    """Iterates over the sampled frames of a video, at the model's size, in chunks.

    Args:
        source: where they come from.
        numbers: which frames, ascending; a number may come twice.
        height, width: the model's frames.
        chunk: frames at a time.
        motion: read motion vectors.
        passes: how often it will be iterated over. Frames held between two passes are freed chunk by
            chunk during the last one.
        waiting: videos that are between two passes at the same time, this one included.
        resize: makes frames of that height and width.
        clock: adds up the seconds of decoding and resizing.

    Attributes:
        seconds: time of every frame; complete when it has been iterated over once.
        clock: the one that was given, or its own.
    """

    def __init__(
        self,
        source: FrameSource,
        numbers: Sequence[int],
        height: int,
        width: int,
        *,
        chunk: int = 16,
        motion: bool = False,
        passes: int = 1,
        waiting: int = 1,
        resize: Callable[[Tensor, int, int], Tensor] = resize_frames,
        clock: StageClock | None = None,
    ) -> None:
        if not numbers or min(numbers) < 0 or max(numbers) >= source.num_frames:
            raise MLLMError(
                f"{source.path or 'the video'} has {source.num_frames} frames, got the numbers "
                f"{describe_value(list(numbers))}"
            )
        self.source, self.numbers = source, tuple(numbers)
        self.height, self.width, self.chunk = height, width, chunk
        self._motion, self._resize = motion, resize
        self.seconds: tuple[float, ...] = ()
        self.clock = clock or StageClock()
        size = 3 * height * width * len(self.numbers)
        self._hold = passes > 1 and size * waiting <= MAX_HELD
        self._held: list[FrameChunk] = []
        self._passes_left = passes

    @property
    def bytes_held(self) -> int:
        """Of resized frames, for the next pass."""
        return sum(chunk.frames.nbytes for chunk in self._held)

    def __iter__(self) -> Iterator[FrameChunk]:
        self._passes_left -= 1
        if self._held and self.seconds:
            if self._passes_left > 0:
                yield from self._held
                return
            self._hold = False
            while self._held:
                yield self._held.pop(0)
            return
        self._held = []
        seconds: list[float] = []
        frames = self._timed()
        for first in range(0, len(self.numbers), self.chunk):
            count = min(self.chunk, len(self.numbers) - first)
            parts, motion = [], []
            for _ in range(count):
                time, pixels, moved = next(frames)
                with self.clock.stage("resize"):
                    parts.append(self._resize(pixels[None], self.height, self.width))
                seconds.append(time)
                if moved is not None:
                    motion.append(moved)
            chunk = FrameChunk(torch.cat(parts), tuple(motion))
            if self._hold:
                self._held.append(FrameChunk(chunk.frames))
            yield chunk
        self.seconds = tuple(seconds)

    def _timed(self) -> Iterator[tuple[float, Tensor, "MotionField | None"]]:
        frames = self.source.read(self.numbers, self._motion)
        while True:
            with self.clock.stage("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame
