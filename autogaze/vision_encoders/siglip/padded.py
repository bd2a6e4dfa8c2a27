"""The padded dict of AutoGaze's users, read as its encoder reads it: slots, not sets of patches."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from autogaze.errors import EncoderError, GeometryError
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.packed import PackedPatches, other_scales, padded_pyramid

KEYS = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")


def read_padded(
    padded: Mapping[str, Any], pyramid: PatchPyramid, device: torch.device
) -> tuple[PackedPatches, Bool[Tensor, "B slots"]]:
    """The patches of a padded dict, and which of its slots are padding.

    A slot shows the patch of its id, wherever in the clip that is, and belongs to the frame that
    `num_gazing_each_frame` puts it in. Padded slots may hold any id.

    Raises:
        EncoderError: no such dict, or one for other scales.
        GeometryError: shapes that disagree, or ids out of range.
    """
    _check(padded, pyramid)
    positions, is_padding, counts = (torch.as_tensor(padded[key]) for key in KEYS)
    positions, is_padding = positions.to(device), is_padding.to(device).bool()
    counts = counts.long().cpu()
    if positions.ndim != 2 or positions.shape != is_padding.shape or counts.ndim not in (1, 2):
        raise _disagreeing(positions, is_padding, counts)
    clips, slots = positions.shape
    if counts.ndim == 1:  # the same for all clips
        counts = counts.expand(clips, -1)
    if len(counts) != clips or (counts < 0).any() or (counts.sum(1) != slots).any():
        raise _disagreeing(positions, is_padding, counts)
    frames = counts.shape[1]
    every_frame = torch.arange(frames).repeat(clips)
    # Frame that each slot belongs to, (clips, slots), and number of real slots of every frame.
    frame = every_frame.repeat_interleave(counts.flatten()).view(clips, slots).to(device)
    kept = ~is_padding
    lengths = torch.zeros(clips, frames, dtype=torch.long, device=device)
    lengths.scatter_add_(1, frame, kept.long())
    chosen = positions[kept].long()
    clip = torch.arange(clips, device=device)[:, None].expand(clips, slots)[kept]
    vocabulary = pyramid.num_patches
    if chosen.numel() and not (chosen.min() >= 0 and chosen.max() < frames * vocabulary):
        raise GeometryError(
            f"patch ids of {frames} frames must lie in [0, {frames * vocabulary}), those of the "
            f"first frame in [0, {vocabulary}), got ids from {int(chosen.min())} to "
            f"{int(chosen.max())}"
        )
    cut_from = clip * frames + chosen // vocabulary
    return PackedPatches(pyramid, chosen % vocabulary, cut_from, lengths.cpu()), is_padding


def _check(padded: Mapping[str, Any], pyramid: PatchPyramid) -> None:
    made = padded_pyramid(padded, pyramid.patch_size)
    missing = [key for key in KEYS if key not in padded]
    if missing:
        raise GeometryError(
            f"the gaze has no {', '.join(missing)}; expected {', '.join(KEYS)}, got {sorted(padded)}"
        )
    count = padded.get("num_vision_tokens_each_frame")
    if count is not None and int(count) != pyramid.num_patches:
        raise EncoderError(
            f"the gaze has {int(count)} patches per frame, this encoder was set up for {pyramid} "
            f"(scales / patch size), which has {pyramid.num_patches}; select with that pyramid"
        )
    if made is None or made == pyramid:
        return
    # Two pyramids of as many patches number them differently. Scales of another number of patches
    # are those that the selector looked at, before its ids were fitted to the encoder's grid.
    if count is None or made.num_patches == int(count):
        raise other_scales(made, pyramid)


def _disagreeing(positions: Tensor, is_padding: Tensor, counts: Tensor) -> GeometryError:
    return GeometryError(
        f"gazing_pos is {tuple(positions.shape)}, if_padded_gazing {tuple(is_padding.shape)} and "
        f"num_gazing_each_frame {tuple(counts.shape)} with {counts.sum(-1).tolist()} slots in all; "
        "expected (clips, slots) twice and the slots of every frame, (frames,) or (clips, frames)"
    )
