"""Base classes of selectors: clips in, a gaze out, as whole clips or frame by frame.

A selector subclasses `Selector` and implements `start`, which returns the stream that does the
work: a `CausalStream` if every frame is decided as it arrives, else a `SelectionStream`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.checks import describe_value
from autogaze.clips import (
    Clips,
    ClipsLike,
    Ratio,
    as_clips,
    as_loss,
    as_ratio,
    check_generator,
    frame_cap,
)
from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.copying import CopiedDeeply
from autogaze.utils.device import DeviceOptions

if TYPE_CHECKING:
    from autogaze.pipeline import GazeOptions

S = TypeVar("S", bound="Selector")


class Selector(ABC):
    """A patch selector.

    Attributes:
        name: its name in `autogaze.load`.
        pyramid: the patches it chooses from.
        metric: the metric of `loss` ("canvas", ...); None if it cannot stop by loss.
        default_loss: the stopping threshold when neither `ratio` nor `loss` is given.
        needs_motion: whether it needs `Clips.motion`.
        reads_pixels: whether it looks at pixels; where not, frames stay where they are.
        cpu_batch: clips that it is given at once on a CPU, of a video of many tiles; None: 16.
    """

    name: ClassVar[str]
    metric: str | None = None
    default_loss: float | None = None
    needs_motion: ClassVar[bool] = False
    reads_pixels: ClassVar[bool] = True
    cpu_batch: ClassVar[int | None] = None
    pyramid: PatchPyramid
    _device: torch.device | None = None

    @property
    def device(self) -> torch.device | None:
        """Where patches are chosen; None: where the frames are."""
        return self._device

    def to(
        self: S, device: str | torch.device = "auto", dtype: str | torch.dtype | None = None
    ) -> S:
        """Choose patches on another device; gazes still lie where the frames lie.

        Args:
            device: "auto" (a CUDA GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
            dtype: precision of a model: "float32", "float16" or "bfloat16"; None: its own.

        Raises:
            AutoGazeError: no such device or precision here.
            SelectorError: a precision for a selector without a model.
        """
        place = DeviceOptions.parse(device, "float32" if dtype is None else dtype)
        if place.dtype != torch.float32:
            precision = str(place.dtype).removeprefix("torch.")
            raise SelectorError(
                f"{self.name} has no model whose precision could be {precision}: it computes in "
                "float32; leave dtype out"
            )
        self._device = place.device
        return self

    @abstractmethod
    def start(
        self, ratio: Ratio | None, loss: float | None, generator: torch.Generator | None
    ) -> "SelectionStream[Any]":
        """A new stream; settings have been checked. What a selector must implement."""

    def stream(
        self,
        *,
        ratio: Ratio | Tensor | np.ndarray | None = None,
        loss: float | Tensor | np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> "SelectionStream[Any]":
        """Start a selection that is fed frame by frame; arguments as of `select`."""
        check_generator(generator)
        ratio, loss = self.settings(ratio, loss)
        return self.start(ratio, loss, generator)

    def select(
        self,
        clips: ClipsLike,
        *,
        ratio: Ratio | Tensor | np.ndarray | None = None,
        loss: float | Tensor | np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> Gaze:
        """Choose patches of whole clips.

        Args:
            clips: (B, T, 3, S, S) frames with S = `pyramid.side`, as a tensor or an array; or a
                list of frames (PIL images, arrays), see `autogaze.clips.as_frames`.
            ratio: cap per frame, as a share of all V patches of all scales, in (0, 1]; one
                number, or one per frame.
            loss: stop a frame as soon as its reconstruction loss is at most this.
                With `ratio` too, whichever comes first. With neither: `default_loss`.
            generator: source of randomness, for selectors that use any.

        Raises:
            SelectorError: frames of another size, a ratio or loss out of range, or a setting
                that this selector does not support.
        """
        clips = as_clips(clips)
        self.check(clips)
        frames_device = clips.frames.device
        clips = self.placed(clips)
        stream = self.stream(ratio=ratio, loss=loss, generator=generator)
        pieces = stream.steps(clips)
        last = stream.finish()
        return Gaze.cat_frames([*pieces, last] if last is not None else pieces).to(frames_device)

    def placed(self, clips: Clips) -> Clips:
        """The clips where they are chosen from."""
        if self.device is None or not self.reads_pixels:
            return clips
        return clips.to(self.device)

    def stream_video(self, path: str | Path, **options: Unpack["GazeOptions"]) -> Iterator[Gaze]:
        """Gaze at a video of any length, one `Gaze` per chunk; see `autogaze.stream_video`."""
        from autogaze.pipeline import GazeStream  # which needs PyAV

        # No name keeps a chunk's frames while the next one is made.
        return map(attrgetter("gaze"), GazeStream(path, self, **options))

    def gaze_video(self, path: str | Path, **options: Unpack["GazeOptions"]) -> Gaze:
        """Gaze at a whole video; see `autogaze.gaze_video`."""
        return Gaze.cat_frames(list(self.stream_video(path, **options)))

    def check(self, clips: Clips) -> None:
        """Raise `SelectorError` unless `clips` are valid input of this selector."""
        side = clips.frames.shape[-1]
        if side != self.pyramid.side:
            raise SelectorError(
                f"{self.name} takes frames of {self.pyramid.side} x {self.pyramid.side} pixels, "
                f"got {side} x {side}; resize or tile them first (autogaze.gaze_video does)"
            )
        if clips.num_frames == 0 or clips.num_clips == 0:
            raise SelectorError(f"no frames: got {tuple(clips.frames.shape)}")
        clips.check_range()  # for all selectors, also those that read no pixels
        if self.needs_motion and clips.motion is None:
            raise SelectorError(
                f"{self.name} needs the decoder's motion vectors, which plain frames do not "
                "carry; give it a video file (autogaze.gaze_video) or Clips(frames, motion)"
            )

    def settings(
        self, ratio: Ratio | Tensor | np.ndarray | None, loss: float | Tensor | np.ndarray | None
    ) -> tuple[Ratio | None, float | None]:
        """Check `ratio` and `loss`, and fill in the default loss where neither is given."""
        ratio = as_ratio(ratio)
        if loss is not None:
            if self.metric is None:
                raise SelectorError(f"{self.name} cannot stop by loss: use ratio instead")
            loss = as_loss(loss)
        if ratio is None and loss is None:
            loss = self.default_loss
        return ratio, loss

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pyramid={self.pyramid})"


class SelectionStream(CopiedDeeply, ABC, Generic[S]):
    """State of a selection that is fed frame by frame; a copy goes on by itself, with the same selector.

    The gazes that `step` and `finish` return, joined by `Gaze.cat_frames`, equal
    `Selector.select` of the whole clip.

    Attributes:
        num_clips: known from the first frame on.
        num_frames: frames fed so far.
        frames_device: where the last frame was given, and gazes are returned.
    """

    shared_by_copies = ("selector",)

    def __init__(self, selector: S, ratio: Ratio | None) -> None:
        self.selector = selector
        self.pyramid = selector.pyramid
        self.ratio = ratio
        self.num_clips: int | None = None
        self.frames_device = torch.device("cpu")
        self.num_frames = 0
        self.finished = False

    @abstractmethod
    def step(self, frame: ClipsLike) -> Gaze:
        """Feed the next frame of every clip, (B, 1, 3, S, S).

        Returns:
            A gaze at the frames decided by now: that one frame, or none or several for selectors
            that look ahead.
        """

    def steps(self, clips: Clips) -> list[Gaze]:
        """Feed all frames of clips that `select` has checked; what `step` returns for them, in order.

        A selector that is faster with several frames at once overrides it.
        """
        return [self.step(clips.frame(index)) for index in range(clips.num_frames)]

    def finish(self) -> Gaze | None:
        """End the stream; the gaze at frames not decided yet, or None."""
        self.finished = True
        return None

    def admit(self, frame: ClipsLike) -> Clips:
        """Check and count the next frame, as every `step` does first; it comes on the selector's device."""
        if self.finished:
            raise SelectorError("this stream is finished; start another with selector.stream()")
        clips = as_clips(frame)
        self.selector.check(clips)
        self.frames_device = clips.frames.device
        if clips.num_frames != 1:
            raise SelectorError(f"a stream takes one frame at a time, got {clips.num_frames}")
        if self.num_clips is not None and clips.num_clips != self.num_clips:
            raise SelectorError(
                f"this stream was started with {self.num_clips} clips, got {clips.num_clips}"
            )
        self.num_clips = clips.num_clips
        self.num_frames += 1
        return self.selector.placed(clips)

    def cap(self, frame: int) -> int:
        """Patches that a frame may take."""
        return frame_cap(self.ratio, frame, self.pyramid.num_patches)


class CausalStream(SelectionStream[S]):
    """A stream that decides every frame as it arrives."""

    @abstractmethod
    def choose(self, frame: Clips, cap: int) -> Gaze:
        """Gaze at one frame, at no more than `cap` patches."""

    def step(self, frame: ClipsLike) -> Gaze:
        clips = self.admit(frame)
        return self.choose(clips, self.cap(self.num_frames - 1)).to(self.frames_device)


def pyramid_or_default(pyramid: Any) -> PatchPyramid:
    """The pyramid, AutoGaze's for None.

    Raises:
        SelectorError: something else, such as scales alone.
    """
    if not isinstance(pyramid, PatchPyramid | None):
        raise SelectorError(
            f"pyramid must be a PatchPyramid, such as PatchPyramid((32, 64, 112, 224), 16), got "
            f"{describe_value(pyramid)}"
        )
    return pyramid or PatchPyramid()


def frame_gaze(
    pyramid: PatchPyramid,
    ids: Sequence[Int[Tensor, " _"]],
    losses: Float[Tensor, "B 1"] | None = None,
    metric: str | None = None,
) -> Gaze:
    """A gaze at one frame from every clip's ids, in the order they were chosen."""
    lengths = torch.tensor([[len(chosen)] for chosen in ids])
    return Gaze(pyramid, torch.cat(list(ids)), lengths, losses=losses, metric=metric)


def no_frames(pyramid: PatchPyramid, num_clips: int, device: torch.device) -> Gaze:
    """A gaze at no frames: what a stream returns while it looks ahead."""
    ids = torch.empty(0, dtype=torch.long, device=device)
    return Gaze(pyramid, ids, torch.empty(num_clips, 0, dtype=torch.long))
