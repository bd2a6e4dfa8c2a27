"""Videos as training sees them: square frames of one size, from a file or from memory."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from autogaze.datasets.decoders import Decoder
from autogaze.datasets.windows import Window
from autogaze.errors import VideoError

log = logging.getLogger("autogaze.datasets")


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
