"""Clips of square frames in all forms that are taken, and checks of `ratio`, `loss` and `generator`.

A clip comes as a tensor, a NumPy array, or a list of frames, each a PIL image, an array or a
tensor. `as_frames` is the one place that takes all of them, and that says what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from autogaze.checks import describe_value, is_dense, is_number
from autogaze.errors import AutoGazeError, SelectorError

Ratio = float | Sequence[float]
"""Cap on the chosen share of all V patches: one number, or one per frame."""

FramesLike = Tensor | np.ndarray | Image.Image | Sequence[Any]
"""Frames in any form that `as_frames` takes."""


def on_black(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels on black, as transparent ones are seen wherever they come from: colour times alpha, rounded."""
    colour = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (colour // 255).astype(np.uint8)


def as_frames(
    frames: Any, error: type[AutoGazeError] = SelectorError
) -> Shaped[Tensor, "B T 3 H W"]:
    """Frames of B clips as a tensor, in the numbers they came in; tensors are not copied.

    Args:
        frames: a tensor or NumPy array (clips, frames, 3, height, width), with the channels there
            or last; (frames, ...) is one clip, and three dimensions are one frame. Or a list of
            frames of one size, each an array, a tensor or a PIL image (as 8-bit RGB, its alpha
            composited on black); or a list of such lists, one per clip.
        error: the class of the error.

    Raises:
        SelectorError: anything else.
    """
    tensor = _tensor(frames, error)
    if 3 <= tensor.ndim <= 5:
        if tensor.shape[-3] != 3 and tensor.shape[-1] == 3:
            tensor = tensor.movedim(-1, -3)
        tensor = tensor.reshape((1,) * (5 - tensor.ndim) + tuple(tensor.shape))
    if tensor.ndim != 5 or tensor.shape[2] != 3:
        raise error(
            "expected frames (clips, frames, 3, height, width), or (frames, 3, height, width) of "
            f"one clip, or with the 3 last, got {tuple(tensor.shape)}"
        )
    return tensor


def _tensor(frames: Any, error: type[AutoGazeError], depth: int = 2) -> Tensor:
    """The tensor of frames in any form, its dimensions as they are."""
    if isinstance(frames, Image.Image):
        return torch.from_numpy(_pixels(frames, error))
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8 and frames.dtype.kind != "f":
            raise error(f"expected uint8 or float frames, got an array of {frames.dtype}")
        if frames.dtype.kind == "f" and frames.dtype.itemsize > 8:
            frames = frames.astype(np.float64)
        # PyTorch knows this machine's order of bytes only, and no negative strides.
        frames = np.ascontiguousarray(frames, frames.dtype.newbyteorder("="))
        return torch.from_numpy(frames if frames.flags.writeable else frames.copy())
    if isinstance(frames, Tensor):
        if not is_dense(frames):
            raise error(
                "expected frames in a dense tensor with values, got one that is sparse, nested or "
                f"on the meta device ({frames.dtype})"
            )
        if frames.dtype != torch.uint8 and not frames.is_floating_point():
            raise error(f"expected uint8 or float frames, got {frames.dtype}")
        return frames
    if isinstance(frames, list | tuple) and depth:
        if not len(frames):
            raise error("no frames: got an empty list")
        parts = [_tensor(frame, error, depth - 1) for frame in frames]
        kinds = {(tuple(part.shape), part.dtype, part.device) for part in parts}
        if len(kinds) > 1:
            (one, kind, place), (other, other_kind, other_place) = list(kinds)[:2]
            raise error(
                "the frames of a list must be of one size, type and device, got "
                f"{one} {kind} on {place} and {other} {other_kind} on {other_place}"
            )
        return torch.stack(parts)
    raise error(
        "expected frames as a tensor, a NumPy array, or a list of PIL images or arrays, got "
        f"{describe_value(frames)}"
    )


def _pixels(image: Image.Image, error: type[AutoGazeError]) -> np.ndarray:
    """(H, W, 3) RGB of a PIL image."""
    if image.mode.startswith(("I", "F")):
        raise error(f"expected PIL images of 8 bits, got mode {image.mode!r}; scale them to 0..255")
    if image.has_transparency_data:
        return on_black(np.array(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Clips:
    """B clips of T square frames: what selectors take.

    Choosing has no gradient, so frames that require one are detached.

    Args:
        frames: (B, T, 3, S, S) RGB, uint8 in [0, 255] or floats in [0, 1].
        motion: (B, T, g, g) motion of each finest cell in pixels, from the decoder's motion
            vectors (see `autogaze.video.motion`); only the codec selector needs it.
    """

    frames: Shaped[Tensor, "B T 3 S S"]  # also taken: all that `as_frames` takes
    motion: Float[Tensor, "B T g g"] | None = None
    # Set by `check_range`, so that values are looked at once; parts of clips inherit it.
    _in_range: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        frames = as_frames(self.frames).detach()
        shape = tuple(frames.shape)
        if shape[3] != shape[4]:
            raise SelectorError(f"expected frames (clips, frames, 3, side, side), got {shape}")
        object.__setattr__(self, "frames", frames)
        if self.motion is not None:
            object.__setattr__(self, "motion", _motion(self.motion, shape))

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
        self.check_range()
        return self.frames.float()

    def check_range(self) -> None:
        """Raise `SelectorError` unless values are finite and lie in [0, 1], or are uint8."""
        frames = self.frames
        if self._in_range or frames.dtype == torch.uint8 or not frames.numel():
            return
        low, high = torch.stack(frames.float().aminmax()).tolist()  # a GPU is waited for once
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise SelectorError(
                f"frames must be finite and lie in [0, 1] (or be uint8), got {low:g} to {high:g}"
            )
        object.__setattr__(self, "_in_range", True)

    def frame(self, index: int) -> "Clips":
        """One frame of every clip."""
        motion = None if self.motion is None else self.motion[:, index : index + 1]
        return self._part(self.frames[:, index : index + 1], motion)

    def split(self, size: int) -> "list[Clips]":
        """The same clips, at most `size` at a time."""
        frames = self.frames.split(size)
        motion = [None] * len(frames) if self.motion is None else self.motion.split(size)
        return [self._part(*both) for both in zip(frames, motion, strict=True)]

    def to(self, device: torch.device) -> "Clips":
        """The clips on a device; to a GPU by way of pinned memory, as the numbers they are."""
        frames, motion = self.frames, self.motion
        if device.type == "cuda" and frames.device.type == "cpu":
            frames = frames.pin_memory()  # unless they are: nobody waits for such a copy
        moved = None if motion is None else motion.to(device)
        return self._part(frames.to(device, non_blocking=True), moved)

    def _part(self, frames: Tensor, motion: Tensor | None) -> "Clips":
        """A part of these clips, not checked again: for a frame that takes as long as choosing."""
        part = object.__new__(Clips)
        for name, value in (("frames", frames), ("motion", motion), ("_in_range", self._in_range)):
            object.__setattr__(part, name, value)
        return part


def _motion(motion: Any, shape: tuple[int, ...]) -> Float[Tensor, "B T g g"]:
    """Motion maps of frames of this shape."""
    if isinstance(motion, np.ndarray) and motion.dtype.kind == "f":
        motion = _tensor(motion, SelectorError)
    if not (is_dense(motion) and motion.is_floating_point()):
        raise SelectorError(f"motion must be a tensor of floats, got {describe_value(motion)}")
    if motion.ndim != 4 or tuple(motion.shape[:2]) != shape[:2]:
        raise SelectorError(f"motion is {tuple(motion.shape)} for frames {shape}")
    return motion


ClipsLike = Clips | FramesLike
"""Clips in any form that selectors take."""


def as_clips(clips: Any) -> Clips:
    """Clips in any form that `as_frames` takes."""
    return clips if isinstance(clips, Clips) else Clips(as_frames(clips))


def as_ratio(ratio: Any) -> Ratio | None:
    """A ratio as one number, or one per frame, of numbers, sequences, tensors and arrays.

    Raises:
        SelectorError: of another form, or outside (0, 1].
    """
    if isinstance(ratio, np.ndarray | Tensor):
        ratio = _numbers(ratio, "ratio")
    check_ratio(ratio)
    return ratio


def as_loss(loss: Any) -> float:
    """A stopping threshold as a number, also of a tensor or array of one.

    Raises:
        SelectorError: of another form, not finite, or below 0.
    """
    if isinstance(loss, np.ndarray | Tensor):
        loss = _numbers(loss, "loss")
    check_loss(loss)
    return loss


def _numbers(values: np.ndarray | Tensor, name: str) -> Any:
    """The values of an array or tensor: one number, or a list of one per frame."""
    most = 1 if name == "ratio" else 0
    if isinstance(values, Tensor):
        number = is_dense(values) and not values.dtype.is_complex and values.dtype != torch.bool
    else:
        number = values.dtype.kind in "fiu"
    if not number or values.ndim > most:
        kind = "nested" if isinstance(values, Tensor) and values.is_nested else f"{values.ndim}-D"
        raise SelectorError(
            f"{name} must be one number{' or one per frame' if most else ''}, got a {kind} "
            f"{type(values).__name__} of {values.dtype}"
        )
    return values.tolist()


def check_ratio(ratio: Any) -> None:
    """Raise `SelectorError` unless every ratio is a number in (0, 1]."""
    if ratio is None:
        return
    single = isinstance(ratio, str | bytes) or not isinstance(ratio, Sequence)
    values = [ratio] if single else list(ratio)
    if not values or not all(is_number(value) and 0 < value <= 1 for value in values):
        raise SelectorError(
            f"ratio must be a number in (0, 1], or a sequence of one per frame, got {describe_value(ratio)}"
        )


def check_loss(loss: Any) -> None:
    """Raise `SelectorError` unless `loss` is a finite number of at least 0."""
    if not (is_number(loss) and 0 <= loss < float("inf")):
        raise SelectorError(
            f"loss must be a finite number of at least 0, got {describe_value(loss)}"
        )


def check_generator(generator: Any) -> None:
    """Raise `SelectorError` unless it is a `torch.Generator` or None."""
    if not isinstance(generator, torch.Generator | None):
        raise SelectorError(
            f"generator must be a torch.Generator, got {describe_value(generator)}; a seed becomes one by "
            "torch.Generator().manual_seed(seed)"
        )


def frame_cap(ratio: Ratio | None, frame: int, num_patches: int) -> int:
    """Patches that frame number `frame` may take: max(1, floor(ratio * V)), V without a ratio."""
    if ratio is None:
        return num_patches
    if isinstance(ratio, Sequence):
        if frame >= len(ratio):
            raise SelectorError(f"{len(ratio)} ratios given, but there is a frame {frame}")
        ratio = ratio[frame]
    # In floats, as AutoGaze computes it: 0.29 of 100 patches are 28, since 0.29 * 100 < 29.
    return max(1, int(ratio * num_patches))


def frame_caps(ratio: Ratio | None, num_frames: int, num_patches: int) -> list[int]:
    """`frame_cap` of every frame from 0 on."""
    return [frame_cap(ratio, frame, num_patches) for frame in range(num_frames)]
