"""How a vision transformer sees gazes, and whether frames and a gaze fit it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import AttentionType


@dataclass(frozen=True)
class GazedSettings:
    """How a vision transformer sees gazes.

    Attributes:
        pyramid: the patches it is made for, or None for any of its patch size.
        attn_type: who is seen by a token of a clip.
        backend: what computes attention, see `attention.packed_attention`.
        max_tokens: clips are encoded together up to this many tokens (at least one clip
            at a time), which bounds memory; with gradients everything is kept anyway.
        frames_at_once: frames resized together while patches are cut.
        empty_frames: "error", or "hold": a frame without patches is pooled as the last
            frame that had some.
    """

    pyramid: PatchPyramid | None = None
    attn_type: AttentionType = "block_causal"
    backend: str = "auto"
    max_tokens: int = 16384
    frames_at_once: int = 64
    empty_frames: str = "error"


def check_fit(encoder: EncoderAdapter, frames: Tensor, gaze: Gaze, settings: GazedSettings) -> None:
    """Raise EncoderError, with both numbers, where frames, gaze and encoder disagree."""
    pyramid, wanted = gaze.pyramid, settings.pyramid
    if wanted is not None and pyramid != wanted:
        raise EncoderError(
            f"the gaze was made for scales {pyramid} (scales / patch size), "
            f"this encoder was set up for {wanted}; select with that pyramid"
        )
    if pyramid.patch_size != encoder.patch_size:
        raise EncoderError(
            f"the gaze has patches of {pyramid.patch_size} pixels, the encoder of "
            f"{encoder.patch_size}; select with a PatchPyramid of patch_size={encoder.patch_size}"
        )
    if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point():
        raise EncoderError(
            "frames must be (clips, frames, 3, S, S) in the encoder's normalisation, "
            f"got {tuple(frames.shape)} of {frames.dtype}"
        )
    # One NaN or infinity makes the sum one too; a GPU would have to be waited for.
    if frames.device.type == "cpu" and not math.isfinite(
        float(frames.detach().sum(dtype=torch.float32))
    ):
        raise EncoderError("the frames have NaN or infinite values")
    if not frames.shape[0] * frames.shape[1]:
        raise EncoderError(
            f"nothing to encode: {frames.shape[0]} clips of {frames.shape[1]} frames"
        )
    if tuple(frames.shape[:2]) != tuple(gaze.lengths.shape):
        raise EncoderError(
            f"the video has {frames.shape[0]} clips of {frames.shape[1]} frames, "
            f"the gaze {gaze.num_clips} of {gaze.num_frames}"
        )
    if tuple(frames.shape[3:]) != (pyramid.side, pyramid.side):
        raise EncoderError(
            f"frames are {frames.shape[3]} x {frames.shape[4]}, the largest scale of the gaze is "
            f"{pyramid.side} x {pyramid.side}; resize or tile them to it"
        )
    if (
        gaze.num_patches
        and not 0 <= int(gaze.ids.min()) <= int(gaze.ids.max()) < pyramid.num_patches
    ):
        raise EncoderError(
            f"patch ids must lie in [0, {pyramid.num_patches}), "
            f"got ids from {int(gaze.ids.min())} to {int(gaze.ids.max())}"
        )
    empty = (gaze.lengths == 0).nonzero()
    if not len(empty):
        return
    if settings.empty_frames == "error":
        clip, frame = empty[0].tolist()
        raise EncoderError(
            f"{len(empty)} of {gaze.lengths.numel()} frames have no gazed patch, first frame "
            f"{frame} of clip {clip}; a feature needs at least 1 (empty_frames='hold' pools such "
            "a frame as the one before it)"
        )
    if bool((gaze.lengths[:, :1] == 0).any()):
        clip = int((gaze.lengths[:, 0] == 0).nonzero()[0])
        raise EncoderError(
            f"frame 0 of clip {clip} has 0 gazed patches and no frame before it to hold; "
            "a clip's first frame needs at least 1"
        )
