"""Gazed encoding: gazed patches to packed tokens, through a model's blocks, to features."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

from autogaze.clips import FramesLike, as_frames
from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.utils.device import sent
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary
from autogaze.vision_encoders.attention import check_backend
from autogaze.vision_encoders.layout import (
    AttentionType,
    TokenLayout,
    check_attention_type,
    token_layout,
)
from autogaze.vision_encoders.patches import gazed_patches
from autogaze.vision_encoders.positions import PositionTables


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

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each frame starts in `ids`: B * T + 1 positions."""
        return (0, *self.lengths.flatten().cumsum(0).tolist())


def encode(
    encoder: EncoderAdapter,
    frames: FramesLike,
    gaze: Gaze,
    settings: GazedSettings,
    *,
    output_hidden_states: bool = False,
) -> "GazedOutput":
    """Features of the gazed patches of every clip.

    Args:
        frames: (B, T, 3, S, S) floats in the encoder's own normalisation, of the pyramid's side,
            in any form that `autogaze.clips.as_frames` takes.
        settings: see `GazedSettings`.
        output_hidden_states: also return the embeddings and every block's output.

    Raises:
        EncoderError: frames, gaze and encoder do not fit together.
    """
    patches = PackedPatches.of(gaze)
    pixels = as_frames(frames, EncoderError)
    features = encode_patches(
        encoder, pixels, patches, settings, output_hidden_states=output_hidden_states
    )
    return GazedOutput(
        last_hidden_state=features.patches,
        pooler_output=features.pooled,
        prefix_hidden_state=features.prefix,
        hidden_states=tuple(features.layers) or None,
        gaze=gaze,
    )


class Features(NamedTuple):
    """Features of N patches, of the prefix tokens and frames they stand in, and of every layer."""

    patches: Float[Tensor, "N C"]
    prefix: Float[Tensor, "*frames P C"] | None
    pooled: Float[Tensor, "*frames C"] | None
    layers: list[Float[Tensor, "N C"]]


def encode_patches(
    encoder: EncoderAdapter,
    frames: Float[Tensor, "B T 3 H W"],
    gaze: PackedPatches,
    settings: GazedSettings,
    *,
    output_hidden_states: bool = False,
) -> Features:
    """Features of packed patches, per frame (B, T, ...) where they belong to frames.

    Raises:
        EncoderError: see `encode`.
    """
    check_fit(encoder, frames, gaze, settings)
    B, T = gaze.lengths.shape
    frames = frames.flatten(0, 1)  # (B * T, 3, H, W)
    ids, cut_from = sent(gaze.ids, frames.device), sent(gaze.frame_of_patch, frames.device)
    tables = PositionTables.of(encoder, gaze.pyramid)
    parts: list[Features] = []
    for first, lengths in _batches(encoder, gaze, settings):
        layout = token_layout(
            lengths, settings.attn_type, frames.device, encoder.num_prefix, settings.backend
        )
        end = first + len(layout.frame_lengths)
        here = slice(gaze.offsets[first], gaze.offsets[end])
        seen, frame, offsets = frames, cut_from[here], None
        if gaze.checked:
            seen, frame = frames[first:end], frame - first if first else frame
            offsets = [offset - here.start for offset in gaze.offsets[first : end + 1]]
        patches = gazed_patches(
            seen, ids[here], frame, gaze.pyramid, settings.frames_at_once, offsets
        )
        tokens, rotary = embed_packed(encoder, patches.to(encoder.dtype), ids[here], layout, tables)
        parts.append(_run_blocks(encoder, tokens, rotary, layout, output_hidden_states))

    def per_frame(values: list[Tensor | None]) -> Tensor | None:
        tensors = [value for value in values if value is not None]
        return _cat(tensors).unflatten(0, (B, T)) if tensors else None

    pooled = per_frame([part.pooled for part in parts])
    if pooled is not None and settings.empty_frames == "hold":
        pooled = carry_forward(pooled, gaze.lengths)
    if pooled is not None and settings.empty_frames == "zero":
        is_empty = sent(gaze.lengths == 0, pooled.device)
        pooled = pooled.masked_fill(is_empty[..., None], 0.0)
    return Features(
        _cat([part.patches for part in parts]),
        per_frame([part.prefix for part in parts]),
        pooled,
        [_cat(states) for states in zip(*(part.layers for part in parts), strict=True)],
    )


@dataclass
class GazedOutput(ModelOutput):
    """Features of N gazed patches in B clips of T frames.

    Attributes:
        last_hidden_state: (N, C), a feature for every patch in the order of `gaze.ids`,
            after the model's final norm where it has one.
        pooler_output: (B, T, C), the model's own pooling (attention head, class token)
            of every frame; None for models that pool nothing.
        prefix_hidden_state: (B, T, P, C), class and register tokens of every frame; None
            for models without.
        hidden_states: the embeddings and every layer's output, (N, C) each, when asked for.
        gaze: what was encoded, which says where each feature belongs.
    """

    last_hidden_state: Float[Tensor, "N C"]
    pooler_output: Float[Tensor, "B T C"] | None = None
    prefix_hidden_state: Float[Tensor, "B T P C"] | None = None
    hidden_states: tuple[Float[Tensor, "N C"], ...] | None = None
    gaze: Gaze | None = None

    def frame(self, clip: int, frame: int) -> Float[Tensor, "n C"]:
        """Features of one frame's patches, in the order of the gaze."""
        gaze = self._gaze
        index = range(gaze.num_clips)[clip] * gaze.num_frames + range(gaze.num_frames)[frame]
        return self.last_hidden_state[gaze.offsets[index] : gaze.offsets[index + 1]]

    def padded(self) -> tuple[Float[Tensor, "B L C"], Bool[Tensor, "B L"]]:
        """Features per clip, zero behind shorter ones, and where they are padding."""
        counts = self._gaze.lengths.sum(1)
        rows = self.last_hidden_state.split(counts.tolist())
        longest = int(counts.max()) if len(counts) else 0
        is_padding = torch.arange(longest) >= counts[:, None]
        padded = pad_sequence(rows, batch_first=True)
        return padded, is_padding.to(padded.device)

    def frame_means(self) -> Float[Tensor, "B T C"]:
        """Mean feature of every frame's patches, for models that pool nothing themselves.

        A frame without patches has the mean of the last frame that had some.
        """
        gaze = self._gaze
        features = self.last_hidden_state.float()
        sums = features.new_zeros(gaze.lengths.numel(), features.shape[1])
        sums.index_add_(0, gaze.frame_of_patch.to(features.device), features)
        counts = gaze.lengths.flatten().clamp(min=1).to(features.device)
        means = (sums / counts[:, None]).to(self.last_hidden_state.dtype)
        return carry_forward(means.unflatten(0, tuple(gaze.lengths.shape)), gaze.lengths)

    @property
    def _gaze(self) -> Gaze:
        # Only ModelOutput's conventions make it optional.
        if self.gaze is None:
            raise EncoderError(
                "this output has no gaze to assign its features to frames; make it by "
                "GazedOutput(..., gaze=gaze)"
            )
        return self.gaze


def carry_forward(
    pooled: Float[Tensor, "B T C"], lengths: Int[Tensor, "B T"]
) -> Float[Tensor, "B T C"]:
    """Frames without patches take the feature of the last frame that had some."""
    steps = torch.arange(lengths.shape[1]).expand(lengths.shape)
    last = sent(torch.where(lengths > 0, steps, 0).cummax(dim=1).values, pooled.device)
    return pooled.gather(1, last[..., None].expand_as(pooled))


def _batches(
    encoder: EncoderAdapter, gaze: PackedPatches, settings: GazedSettings
) -> Iterator[tuple[int, tuple[tuple[int, ...], ...]]]:
    """Batches of clips that are encoded together: the first frame, and the clips' lengths."""
    clips = [tuple(clip) for clip in gaze.lengths.tolist()]
    if settings.attn_type == "frame_independent":  # then every frame is a clip by itself
        clips = [(n,) for clip in clips for n in clip]
    limit = float("inf") if torch.is_grad_enabled() else settings.max_tokens
    batch: list[tuple[int, ...]] = []
    first = tokens = 0
    for clip in clips:
        size = sum(clip) + encoder.num_prefix * len(clip)
        # Clips without any token join a batch of clips that have some.
        if tokens and size and tokens + size > limit:
            yield first, tuple(batch)
            first, batch, tokens = first + sum(map(len, batch)), [], 0
        batch.append(clip)
        tokens += size
    yield first, tuple(batch)


def embed_packed(
    encoder: EncoderAdapter,
    patches: Float[Tensor, "n 3 p p"],
    ids: Int[Tensor, " n"],
    layout: TokenLayout,
    tables: PositionTables,
) -> tuple[Float[Tensor, "N C"], Rotary | None]:
    """The packed sequence before the first block, and its rotary positions."""
    tokens = encoder.project(patches)
    if tables.positions is not None:
        tokens = tokens + tables.positions[ids]
    rotary = tables.rotary and (tables.rotary[0][ids], tables.rotary[1][ids])
    prefix = encoder.prefix()
    if prefix is None:
        return tokens, rotary
    # Patches and prefixes, one after the other, taken in the order of the sequence.
    num_frames = len(layout.frame_lengths)
    order = layout.from_patches
    tokens = torch.cat([tokens, prefix.repeat(num_frames, 1)])[order]
    if rotary is not None:  # class and register tokens are not rotated
        sin = rotary[1].new_zeros(num_frames * len(prefix), rotary[1].shape[1])
        cos = torch.ones_like(sin)
        rotary = torch.cat([rotary[0], cos])[order], torch.cat([rotary[1], sin])[order]
    return tokens, rotary


def _run_blocks(
    encoder: EncoderAdapter,
    tokens: Float[Tensor, "N C"],
    rotary: Rotary | None,
    layout: TokenLayout,
    output_hidden_states: bool,
) -> Features:
    x = encoder.enter(tokens[None])
    patches = layout.patch_index if encoder.num_prefix else slice(None)
    layers = [x[0, patches]] if output_hidden_states else []
    for layer in encoder.layers:
        if x.numel():  # transformers' layers cannot reshape nothing
            x = encoder.run(layer, x, layout, rotary)
        if output_hidden_states:
            layers.append(x[0, patches])
    x = encoder.leave(x)[0]
    prefix = x[layout.prefix_index] if encoder.num_prefix else None
    return Features(x[patches], prefix, encoder.pool(x, layout), layers)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


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
    empty = (gaze.lengths == 0).nonzero().tolist()
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
