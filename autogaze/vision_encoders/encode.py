"""Encoding gazes: patches to tokens, tokens through the blocks, features out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils import ModelOutput

from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import AttentionType, TokenLayout
from autogaze.vision_encoders.patches import PositionTables, gazed_patches

# How a vision transformer sees gazes, and whether frames and a gaze fit it.


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


# What a gazed encoder returns.


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
        """Features of the patches of one frame, in the order they were chosen."""
        gaze = self._gaze
        index = range(gaze.num_clips)[clip] * gaze.num_frames + range(gaze.num_frames)[frame]
        return self.last_hidden_state[gaze.offsets[index] : gaze.offsets[index + 1]]

    def padded(self) -> tuple[Float[Tensor, "B L C"], Tensor]:
        """Features a clip, zeros behind shorter ones, and (B, L) True where there are none."""
        counts = self._gaze.lengths.sum(1)
        rows = self.last_hidden_state.split(counts.tolist())
        longest = int(counts.max()) if len(counts) else 0
        is_padding = torch.arange(longest) >= counts[:, None]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
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
        return hold(means.unflatten(0, tuple(gaze.lengths.shape)), gaze.lengths)

    @property
    def _gaze(self) -> Gaze:
        # Only ModelOutput's conventions make it optional.
        if self.gaze is None:
            raise EncoderError(
                "this output says no gaze, so nobody knows where its features belong; make it "
                "with GazedOutput(..., gaze=gaze)"
            )
        return self.gaze


def hold(pooled: Float[Tensor, "B T C"], lengths: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
    """Frames without patches take the feature of the last frame that had some."""
    steps = torch.arange(lengths.shape[1]).expand(lengths.shape)
    last = torch.where(lengths > 0, steps, 0).cummax(dim=1).values.to(pooled.device)
    return pooled.gather(1, last[..., None].expand_as(pooled))


@dataclass(frozen=True)
class _Tokens:
    """The packed sequence before the first block."""

    embedded: Float[Tensor, "N C"]
    rotary: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]] | None


@dataclass(frozen=True)
class _Features:
    """Features of a run of clips: patches, class tokens, pooled frames, every layer."""

    patches: Float[Tensor, "N C"]
    prefix: Float[Tensor, "frames P C"] | None
    pooled: Float[Tensor, "frames C"] | None
    layers: tuple[Float[Tensor, "N C"], ...]


def encode(
    encoder: EncoderAdapter,
    frames: Float[Tensor, "B T 3 S S"],
    gaze: Gaze,
    settings: GazedSettings,
    *,
    output_hidden_states: bool = False,
) -> GazedOutput:
    """Encode the gazed patches of every clip.

    Args:
        frames: in the encoder's own normalisation, of the pyramid's side.
        gaze: what to see of them.
        output_hidden_states: also return the embeddings and every block's output.

    Raises:
        EncoderError: frames, gaze and encoder do not fit together.
    """
    check_fit(encoder, frames, gaze, settings)
    B, T = gaze.lengths.shape
    frames = frames.flatten(0, 1)  # (B * T, 3, S, S)
    ids = gaze.ids.to(frames.device)
    tables = PositionTables.of(encoder, gaze.pyramid)
    parts = []
    for first, lengths in _runs(encoder, gaze, settings):
        layout = TokenLayout(
            lengths, settings.attn_type, frames.device, encoder.num_prefix, settings.backend
        )
        end = first + len(layout.frame_lengths)
        chosen = ids[gaze.offsets[first] : gaze.offsets[end]]
        patches = gazed_patches(
            frames[first:end],
            chosen,
            layout.frame_of_patch,
            gaze.pyramid,
            settings.frames_at_once,
        )
        tokens = _embed(encoder, patches.to(encoder.dtype), chosen, layout, tables)
        parts.append(_through_blocks(encoder, tokens, layout, output_hidden_states))
    joined = _join(parts)
    pooled = joined.pooled.unflatten(0, (B, T)) if joined.pooled is not None else None
    if pooled is not None and settings.empty_frames == "hold":
        pooled = hold(pooled, gaze.lengths)
    return GazedOutput(
        last_hidden_state=joined.patches,
        pooler_output=pooled,
        prefix_hidden_state=joined.prefix.unflatten(0, (B, T))
        if joined.prefix is not None
        else None,
        hidden_states=joined.layers if output_hidden_states else None,
        gaze=gaze,
    )


def _runs(
    encoder: EncoderAdapter, gaze: Gaze, settings: GazedSettings
) -> Iterator[tuple[int, tuple[tuple[int, ...], ...]]]:
    """First frame and frames' lengths of the clips that are encoded together."""
    clips = [tuple(clip) for clip in gaze.lengths.tolist()]
    if settings.attn_type == "frame_independent":  # then every frame is a clip by itself
        clips = [(n,) for clip in clips for n in clip]
    limit = float("inf") if torch.is_grad_enabled() else settings.max_tokens
    run: list[tuple[int, ...]] = []
    first = tokens = 0
    for clip in clips:
        size = sum(clip) + encoder.num_prefix * len(clip)
        # Clips without any token share the run of those that have some.
        if tokens and size and tokens + size > limit:
            yield first, tuple(run)
            first, run, tokens = first + sum(len(frames) for frames in run), [], 0
        run.append(clip)
        tokens += size
    yield first, tuple(run)


def _embed(
    encoder: EncoderAdapter,
    patches: Float[Tensor, "N 3 p p"],
    ids: Int[Tensor, " N"],
    layout: TokenLayout,
    tables: PositionTables,
) -> _Tokens:
    tokens = encoder.project(patches)
    if tables.positions is not None:
        tokens = tokens + tables.positions[ids]
    rotary = tables.rotary and (tables.rotary[0][ids], tables.rotary[1][ids])
    prefix = encoder.prefix()
    if prefix is None:
        return _Tokens(tokens, rotary)
    # Patches and prefixes, one after the other, taken in the order of the sequence.
    num_frames = len(layout.frame_lengths)
    order = torch.cat([layout.patch_index, layout.prefix_index.flatten()]).argsort()
    tokens = torch.cat([tokens, prefix.repeat(num_frames, 1)])[order]
    if rotary is not None:  # class tokens are turned by nothing
        still = rotary[0].new_zeros(num_frames * len(prefix), rotary[0].shape[1])
        rotary = (
            torch.cat([rotary[0], still + 1])[order],
            torch.cat([rotary[1], still])[order],
        )
    return _Tokens(tokens, rotary)


def _through_blocks(
    encoder: EncoderAdapter, tokens: _Tokens, layout: TokenLayout, output_hidden_states: bool
) -> _Features:
    x = encoder.enter(tokens.embedded[None])
    patches = layout.patch_index if encoder.num_prefix else slice(None)
    states = [x[0, patches]] if output_hidden_states else []
    for layer in encoder.layers:
        x = encoder.run(layer, x, layout, tokens.rotary)
        if output_hidden_states:
            states.append(x[0, patches])
    x = encoder.leave(x)[0]
    return _Features(
        x[patches],
        x[layout.prefix_index] if encoder.num_prefix else None,
        encoder.pool(x, layout),
        tuple(states),
    )


def _join(parts: list[_Features]) -> _Features:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return replace(
        first,
        patches=torch.cat([part.patches for part in parts]),
        prefix=_cat([part.prefix for part in parts]),
        pooled=_cat([part.pooled for part in parts]),
        layers=tuple(torch.cat(states) for states in zip(*(p.layers for p in parts), strict=True)),
    )


def _cat(tensors: list[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(known) if known else None
