"""What every selector promises: clips in, a gaze out, whole or frame by frame."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid

Ratio = float | Sequence[float]
"""Cap on the chosen share of all V patches: one number, or one a frame."""


@dataclass(frozen=True)
class Clips:
    """B clips of T square frames, as every selector takes them.

    Args:
        frames: (B, T, 3, S, S) RGB, uint8 in [0, 255] or floats in [0, 1].
        motion: (B, T, g, g) how much the decoder says each finest cell moved, in
            pixels (see `autogaze.video.motion`); only the codec selector needs it.
    """

    frames: Shaped[Tensor, "B T 3 S S"]
    motion: Float[Tensor, "B T g g"] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if len(shape) != 5 or shape[2] != 3 or shape[3] != shape[4]:
            raise SelectorError(f"expected frames (clips, frames, 3, side, side), got {shape}")
        if self.frames.dtype != torch.uint8 and not self.frames.is_floating_point():
            raise SelectorError(f"expected uint8 or float frames, got {self.frames.dtype}")
        if self.motion is not None and tuple(self.motion.shape[:2]) != shape[:2]:
            raise SelectorError(f"motion is {tuple(self.motion.shape)} for frames {shape}")

    @property
    def num_clips(self) -> int:
        return self.frames.shape[0]

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    def unit(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames as float32 in [0, 1].

        Raises:
            SelectorError: NaN, or values outside [0, 1] (normalised frames, say).
        """
        if self.frames.dtype == torch.uint8:
            return self.frames.float().div_(255)
        frames = self.frames.float()
        if frames.numel():
            low, high = (float(value) for value in frames.aminmax())
            if not (low >= -1e-4 and high <= 1 + 1e-4):
                raise SelectorError(
                    f"frames must be finite and lie in [0, 1] (or be uint8), got {low:g} to {high:g}"
                )
        return frames

    def frame(self, index: int) -> "Clips":
        """One frame of every clip."""
        motion = None if self.motion is None else self.motion[:, index : index + 1]
        return Clips(self.frames[:, index : index + 1], motion)

    def split(self, parts: int) -> "list[Clips]":
        """The same clips in so many parts, as equal as can be."""
        frames = self.frames.tensor_split(parts)
        if self.motion is None:
            return [Clips(part) for part in frames]
        return [Clips(*both) for both in zip(frames, self.motion.tensor_split(parts), strict=True)]


def as_clips(clips: "Clips | Tensor") -> Clips:
    return clips if isinstance(clips, Clips) else Clips(clips)


class SelectionStream(ABC):
    """The state of a selection that is fed frame by frame.

    `step` takes the next frame of every clip and returns a gaze at the frames that
    could be decided by now: usually that one frame; none or several for selectors
    that look ahead. `finish` returns what is still open. All pieces joined by
    `Gaze.cat_frames` equal `Selector.select` on the whole clip.
    """

    @abstractmethod
    def step(self, frame: Clips | Tensor) -> Gaze:
        """Gaze at the next frame; `frame` is (B, 1, 3, S, S)."""

    @abstractmethod
    def finish(self) -> Gaze | None:
        """What was still undecided, or None; the stream cannot be fed afterwards."""


class Selector(ABC):
    """Chooses patches.

    Attributes:
        name: what `autogaze.load` knows it by.
        pyramid: the patches it chooses from.
        judge: in whose units `loss` is ("canvas", ...); None if it cannot stop by loss.
        default_loss: the loss aimed at when neither `ratio` nor `loss` is given.
        needs_motion: whether `Clips.motion` must be there.
    """

    name: ClassVar[str]
    judge: str | None = None
    default_loss: float | None = None
    needs_motion: ClassVar[bool] = False
    pyramid: PatchPyramid

    @abstractmethod
    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> SelectionStream:
        """The stream of `stream`, which has checked the settings: what a selector must write."""

    def stream(
        self,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
    ) -> SelectionStream:
        """Start a selection that is fed frame by frame; the same arguments as `select`."""
        ratio, loss = self.settings(ratio, loss)
        return self.start(ratio, loss, generator)

    def select(
        self,
        clips: Clips | Tensor,
        *,
        ratio: Ratio | None = None,
        loss: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze:
        """Choose patches of whole clips.

        Args:
            clips: (B, T, 3, S, S) frames with S = `pyramid.side`.
            ratio: cap a frame, as a share of all V patches of all scales, in (0, 1].
            loss: stop a frame as soon as its reconstruction loss is at most this.
                With `ratio` too, whichever comes first. With neither: `default_loss`.
            generator: source of randomness, for selectors that use any.

        Raises:
            SelectorError: frames of another size, values that are no ratio or loss,
                or a setting that this selector cannot honour.
        """
        clips = as_clips(clips)
        self.check(clips)
        stream = self.stream(ratio=ratio, loss=loss, generator=generator)
        pieces = [stream.step(clips.frame(index)) for index in range(clips.num_frames)]
        last = stream.finish()
        return Gaze.cat_frames([*pieces, last] if last is not None else pieces)

    def gaze_video(self, path: str | Path, **options: Any) -> Gaze:
        """`autogaze.gaze_video` with this selector."""
        from autogaze.pipeline import gaze_video

        return gaze_video(path, selector=self, **options)

    def stream_video(self, path: str | Path, **options: Any) -> Iterator[Gaze]:
        """`autogaze.stream_video` with this selector: a gaze a chunk, constant memory."""
        from autogaze.pipeline import stream_video

        return stream_video(path, selector=self, **options)

    def check(self, clips: Clips) -> None:
        """Raise `SelectorError` unless this selector can look at `clips`."""
        side = clips.frames.shape[-1]
        if side != self.pyramid.side:
            raise SelectorError(
                f"{self.name} looks at frames of {self.pyramid.side} x {self.pyramid.side} pixels, "
                f"got {side} x {side}; resize or tile them first (autogaze.gaze_video does)"
            )
        if clips.num_frames == 0 or clips.num_clips == 0:
            raise SelectorError(f"no frames to look at: got {tuple(clips.frames.shape)}")
        frames = clips.frames
        # Asked of everyone, also of those who look at no pixel. One NaN or infinity makes the
        # sum one too; asking every value takes ten times as long.
        on_host = frames.is_floating_point() and frames.device.type == "cpu"
        if on_host and not math.isfinite(float(frames.detach().sum(dtype=torch.float32))):
            raise SelectorError(
                "frames must be finite and lie in [0, 1] (or be uint8), got NaN or infinite values"
            )
        if self.needs_motion and clips.motion is None:
            raise SelectorError(
                f"{self.name} needs the decoder's motion vectors, which plain frames do not "
                "carry; give it a video file (autogaze.gaze_video) or Clips(frames, motion)"
            )

    def settings(
        self, ratio: Ratio | None, loss: float | None
    ) -> tuple[Ratio | None, float | None]:
        """Check `ratio` and `loss`, and fill in the default loss where neither is given."""
        check_ratio(ratio)
        if loss is not None:
            if self.judge is None:
                raise SelectorError(
                    f"{self.name} cannot stop by loss, it only knows a cap: use ratio instead"
                )
            check_loss(loss)
        if ratio is None and loss is None:
            loss = self.default_loss
        return ratio, loss

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pyramid={self.pyramid})"


def check_ratio(ratio: Ratio | None) -> None:
    """Raise `SelectorError` unless every ratio lies in (0, 1]."""
    if ratio is None:
        return
    values = [ratio] if isinstance(ratio, str) or not isinstance(ratio, Sequence) else list(ratio)
    if not values or not all(_is_number(value) and 0 < value <= 1 for value in values):
        raise SelectorError(f"ratio must lie in (0, 1], got {ratio!r}")


def check_loss(loss: float) -> None:
    """Raise `SelectorError` unless `loss` is a finite number of at least 0."""
    if not (_is_number(loss) and 0 <= loss < float("inf")):
        raise SelectorError(f"loss must be at least 0, got {loss!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def frame_cap(ratio: Ratio | None, frame: int, num_patches: int) -> int:
    """Patches that frame number `frame` may take: max(1, floor(ratio * V)), V without a ratio."""
    if ratio is None:
        return num_patches
    if isinstance(ratio, Sequence):
        if frame >= len(ratio):
            raise SelectorError(f"{len(ratio)} ratios given, but there is a frame {frame}")
        ratio = ratio[frame]
    # In floats, as AutoGaze computes it: 0.29 of 100 patches are 28, for 0.29 * 100 is a
    # little less than 29. Rounding first would gaze at other patches than AutoGaze does.
    return max(1, int(ratio * num_patches))


def frame_caps(ratio: Ratio | None, num_frames: int, num_patches: int) -> list[int]:
    """`frame_cap` of every frame from 0 on."""
    return [frame_cap(ratio, frame, num_patches) for frame in range(num_frames)]
