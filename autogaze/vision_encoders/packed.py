"""What gazed encoding is given: options, the patches of all clips in one sequence, and their checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.device import sent
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.attention import check_backend
from autogaze.vision_encoders.layout import AttentionType, check_attention_type


@dataclass(frozen=True)
class GazedSettings:
    """Options of gazed encoding.

    Attributes:
        pyramid: the patches it is made for, or None for any of the encoder's patch size.
        attn_type: which tokens of its clip a token sees.
        backend: of attention, see `attention.packed_attention`.
        max_tokens: clips are encoded together up to this many tokens (at least one clip
            at a time), which bounds memory; with gradients everything is kept anyway.
        frames_at_once: frames resized together while patches are cut.
        empty_frames: "error"; "hold": a frame without patches is pooled as the last frame
            that had some; or "zero": its feature is zero.
        resize_frames: frames of other sides than the pyramid's are resized to every scale;
            else they are an error.

    Raises:
        EncoderError: an unknown name, a backend that is not installed, or a `max_tokens` below 1.
    """

    pyramid: PatchPyramid | None = None
    attn_type: AttentionType = "block_causal"
    backend: str = "auto"
    max_tokens: int = 16384
    frames_at_once: int = 64
    empty_frames: str = "error"
    resize_frames: bool = False

    def __post_init__(self) -> None:
        check_attention_type(self.attn_type)
        check_backend(self.backend)
        if self.max_tokens < 1:
            raise EncoderError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.empty_frames not in ("error", "hold", "zero"):
            raise EncoderError(
                f"empty_frames must be 'error', 'hold' or 'zero', got {self.empty_frames!r}"
            )


@dataclass(frozen=True, eq=False)
class PackedPatches:
    """What is encoded: N patches of B clips of T frames, packed frame after frame.

    Like `Gaze`, but ids may repeat within a frame, and a patch may be cut from another frame
    than the one that it is encoded with.

    Attributes:
        pyramid: that ids refer to.
        ids: frame-relative patch ids.
        frame_of_patch: clip * T + frame that each of them is cut from.
        lengths: patches of every frame, on the CPU; they say which patches see each other.
        checked: whether ids are known to lie in the pyramid, and patches to be cut from the frames
            that they are encoded with, as those of a `Gaze` are.
    """

    pyramid: PatchPyramid
    ids: Int[Tensor, " N"]
    frame_of_patch: Int[Tensor, " N"]
    lengths: Int[Tensor, "B T"]
    checked: bool = False

    @classmethod
    def of(cls, gaze: Gaze) -> "PackedPatches":
        """The patches of a gaze."""
        return cls(gaze.pyramid, gaze.ids, gaze.frame_of_patch, gaze.lengths, checked=True)

    def on(self, device: torch.device) -> "PackedPatches":
        """The same with ids on a device, which is not waited for."""
        ids, cut_from = sent(self.ids, device), sent(self.frame_of_patch, device)
        return replace(self, ids=ids, frame_of_patch=cut_from)

    def copied(self) -> "PackedPatches":
        """The same with tensors of its own."""
        ids, cut_from = self.ids.clone(), self.frame_of_patch.clone()
        return replace(self, ids=ids, frame_of_patch=cut_from)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each frame starts in `ids`: B * T + 1 positions."""
        return (0, *accumulate(chain.from_iterable(self.clips)))

    @cached_property
    def clips(self) -> tuple[tuple[int, ...], ...]:
        """`lengths` as numbers."""
        return tuple(tuple(clip) for clip in self.lengths.tolist())

    @cached_property
    def empty(self) -> tuple[tuple[int, int], ...]:
        """Clip and frame of every frame without patches."""
        return tuple(
            (clip, frame)
            for clip, counts in enumerate(self.clips)
            for frame, count in enumerate(counts)
            if not count
        )


def padded_pyramid(padded: Any, patch_size: int) -> PatchPyramid | None:
    """The pyramid that AutoGaze's padded dict was made for; None where it names no scales.

    Raises:
        EncoderError: no dict.
    """
    if not isinstance(padded, Mapping):
        raise EncoderError(
            f"expected a Gaze, or the padded dict that AutoGaze returns, got {type(padded).__name__}"
        )
    scales = padded.get("scales")
    if scales is None:
        return None
    if not isinstance(scales, str):  # numbers, also as tensors
        scales = [int(scale) for scale in scales]
    return PatchPyramid.parse(scales, patch_size, crop=True)


def other_scales(made: PatchPyramid, wanted: PatchPyramid) -> EncoderError:
    """The error of a gaze on pyramid `made`, given to an encoder of pyramid `wanted`."""
    return EncoderError(
        f"the gaze was made for scales {made} (scales / patch size, {made.num_patches} patches per "
        f"frame), this encoder was set up for {wanted} ({wanted.num_patches}); select with that pyramid"
    )


def check_fit(
    encoder: EncoderAdapter, frames: Tensor, gaze: PackedPatches, settings: GazedSettings
) -> None:
    """Raise EncoderError, with both values, where frames, gaze and encoder disagree."""
    pyramid, wanted = gaze.pyramid, settings.pyramid
    if wanted is not None and pyramid != wanted:
        raise other_scales(pyramid, wanted)
    if pyramid.patch_size != encoder.patch_size:
        raise EncoderError(
            f"the gaze has patches of {pyramid.patch_size} pixels, the encoder of "
            f"{encoder.patch_size}; select with a PatchPyramid of patch_size={encoder.patch_size}"
        )
    if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point():
        raise EncoderError(
            "frames must be floats (clips, frames, 3, S, S) in the encoder's normalisation, as its "
            f"image processor makes them of pictures, got {tuple(frames.shape)} of {frames.dtype}"
        )
    num_clips, num_frames, _, height, width = frames.shape
    # One NaN or infinity makes the sum one too; a GPU would have to be waited for.
    if frames.device.type == "cpu" and not math.isfinite(
        float(frames.detach().sum(dtype=torch.float32))
    ):
        raise EncoderError("the frames have NaN or infinite values")
    if not num_clips * num_frames:
        raise EncoderError(f"nothing to encode: {num_clips} clips of {num_frames} frames")
    if (num_clips, num_frames) != tuple(gaze.lengths.shape):
        raise EncoderError(
            f"the video has {num_clips} clips of {num_frames} frames, "
            f"the gaze {gaze.lengths.shape[0]} of {gaze.lengths.shape[1]}"
        )
    if not settings.resize_frames and (height, width) != (pyramid.side, pyramid.side):
        raise EncoderError(
            f"frames are {height} x {width}, the largest scale of the gaze is "
            f"{pyramid.side} x {pyramid.side}; resize or tile them to it"
        )
    if gaze.ids.numel() and (patches.may_wait(gaze.ids.device) or not gaze.checked):
        least, most = int(gaze.ids.min()), int(gaze.ids.max())
        if least < 0 or most >= pyramid.num_patches:
            raise EncoderError(
                f"patch ids must lie in [0, {pyramid.num_patches}), got ids from {least} to {most}"
            )
    if settings.empty_frames == "zero":
        return
    empty = gaze.empty
    if empty and settings.empty_frames == "error":
        clip, frame = empty[0]
        raise EncoderError(
            f"{len(empty)} of {gaze.lengths.numel()} frames have no gazed patch, first frame "
            f"{frame} of clip {clip}; a feature needs at least 1 (empty_frames='hold' pools such "
            "a frame as the one before it)"
        )
    for clip, frame in empty:
        if frame == 0:
            raise EncoderError(
                f"frame 0 of clip {clip} has 0 gazed patches and no frame before it; "
                "a clip's first frame needs at least 1"
            )
