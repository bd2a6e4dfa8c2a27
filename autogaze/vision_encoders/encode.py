"""Gazed encoding: gazed patches to packed tokens, through a model's blocks, to features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

from autogaze.clips import FramesLike, as_frames
from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.utils.device import BatchSize, sent
from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary
from autogaze.vision_encoders.blocks import checkpoints_reentrantly
from autogaze.vision_encoders.layout import TokenLayout, token_layout
from autogaze.vision_encoders.packed import GazedSettings, PackedPatches, check_fit
from autogaze.vision_encoders.patches import gazed_patches
from autogaze.vision_encoders.positions import PositionTables


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
        return padded, sent(is_padding, padded.device)

    def frame_means(self) -> Float[Tensor, "B T C"]:
        """Mean feature of every frame's patches, for models that pool nothing themselves.

        A frame without patches has the mean of the last frame that had some.
        """
        gaze = self._gaze
        features = self.last_hidden_state.float()
        sums = features.new_zeros(gaze.lengths.numel(), features.shape[1])
        sums.index_add_(0, sent(gaze.frame_of_patch, features.device), features)
        counts = sent(gaze.lengths.flatten().clamp(min=1), features.device)
        means = (sums / counts[:, None]).to(self.last_hidden_state.dtype)
        means = means.unflatten(0, tuple(gaze.lengths.shape))
        if not bool((gaze.lengths == 0).any()):
            return means
        last = sent(last_filled(gaze.lengths), means.device)
        return means.gather(1, last[..., None].expand_as(means))

    @property
    def _gaze(self) -> Gaze:
        # Only ModelOutput's conventions make it optional.
        if self.gaze is None:
            raise EncoderError(
                "this output has no gaze to assign its features to frames; make it by "
                "GazedOutput(..., gaze=gaze)"
            )
        return self.gaze


def last_filled(lengths: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The last frame up to each that had patches; 0 where none had, on the host."""
    steps = torch.arange(lengths.shape[1]).expand(lengths.shape)
    return torch.where(lengths > 0, steps, 0).cummax(dim=1).values


def encode(
    encoder: EncoderAdapter,
    frames: FramesLike,
    gaze: Gaze,
    settings: GazedSettings,
    *,
    output_hidden_states: bool = False,
    by: "PatchEncoding | None" = None,
) -> GazedOutput:
    """Features of the gazed patches of every clip.

    Args:
        frames: (B, T, 3, S, S) floats in the encoder's own normalisation, of the pyramid's side,
            in any form that `autogaze.clips.as_frames` takes, on any device.
        settings: see `GazedSettings`.
        output_hidden_states: also return the embeddings and every block's output.
        by: what encodes the packed patches; None: `encode_patches`.

    Raises:
        EncoderError: frames, gaze and encoder do not fit together.
    """
    patches = PackedPatches.of(gaze)
    pixels = as_frames(frames, EncoderError)
    features = (by or encode_patches)(
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


PatchEncoding = Callable[..., Features]
"""Arguments and result of `encode_patches`."""


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
    device = encoder.projection.weight.device
    # Copied without waiting, which has no gradient.
    frames = frames.to(device) if frames.requires_grad else sent(frames, device)
    moved = gaze.on(device)
    tokens = BatchSize(
        "tokens", "lower max_tokens of gazed(...), or give fewer clips", EncoderError
    )

    def encode_in_batches(max_tokens: int) -> Features:
        limited = settings if tokens.halved is None else replace(settings, max_tokens=max_tokens)
        plan = EncodingPlan.of(encoder, gaze, limited, device)
        return encode_packed(
            encoder,
            cut_packed(encoder, frames, moved, limited, plan),
            moved,
            plan,
            PositionTables.of(encoder, gaze.pyramid),
            output_hidden_states=output_hidden_states,
        )

    if torch.is_grad_enabled():  # all is kept for the gradients, in whatever batches
        return encode_in_batches(settings.max_tokens)
    num_tokens = gaze.offsets[-1] + encoder.num_prefix * gaze.lengths.numel()
    return tokens.run(max(1, min(settings.max_tokens, num_tokens)), encode_in_batches)


@dataclass(frozen=True, eq=False)
class EncodingPlan:
    """What encoding needs besides pixels, ids and weights: all of it follows from lengths.

    Attributes:
        batches: of clips that are encoded together: their first frame, and the tokens' layout.
        filled: (B, T) the frame whose feature each frame takes, where empty ones are held.
        is_empty: (B, T) the frames whose feature is zero.
    """

    batches: tuple[tuple[int, TokenLayout], ...]
    filled: Int[Tensor, "B T"] | None = None
    is_empty: Bool[Tensor, "B T"] | None = None

    @classmethod
    def of(
        cls,
        encoder: EncoderAdapter,
        gaze: PackedPatches,
        settings: GazedSettings,
        device: torch.device,
    ) -> "EncodingPlan":
        """The plan of a call; layouts are those of earlier calls with equal lengths."""
        batches = tuple(
            (
                first,
                token_layout(
                    lengths, settings.attn_type, device, encoder.num_prefix, settings.backend
                ),
            )
            for first, lengths in _batches(encoder, gaze, settings)
        )
        if not gaze.empty or settings.empty_frames == "error":
            return cls(batches)
        if settings.empty_frames == "hold":
            return cls(batches, filled=sent(last_filled(gaze.lengths), device))
        return cls(batches, is_empty=sent(gaze.lengths == 0, device))


def cut_packed(
    encoder: EncoderAdapter,
    frames: Float[Tensor, "B T 3 H W"],
    gaze: PackedPatches,
    settings: GazedSettings,
    plan: EncodingPlan,
) -> Iterator[Float[Tensor, "n 3 p p"]]:
    """Pixels of the patches of every batch of a plan, one batch after another."""
    frames = frames.flatten(0, 1)  # (B * T, 3, H, W)
    for first, layout in plan.batches:
        end = first + len(layout.frame_lengths)
        here = slice(gaze.offsets[first], gaze.offsets[end])
        seen, frame, offsets = frames, gaze.frame_of_patch[here], None
        if gaze.checked:
            seen, frame = frames[first:end], frame - first if first else frame
            offsets = [offset - here.start for offset in gaze.offsets[first : end + 1]]
        patches = gazed_patches(
            seen, gaze.ids[here], frame, gaze.pyramid, settings.frames_at_once, offsets
        )
        yield patches.to(encoder.dtype)


def encode_packed(
    encoder: EncoderAdapter,
    patches: Iterable[Float[Tensor, "n 3 p p"]],
    gaze: PackedPatches,
    plan: EncodingPlan,
    tables: PositionTables,
    *,
    output_hidden_states: bool = False,
) -> Features:
    """`encode_patches` of cut patches, which with the ids lie on the encoder's device, by a plan.

    It waits for nothing.
    """
    B, T = gaze.lengths.shape
    parts: list[Features] = []
    for (first, layout), pixels in zip(plan.batches, patches, strict=True):
        end = first + len(layout.frame_lengths)
        ids = gaze.ids[gaze.offsets[first] : gaze.offsets[end]]
        tokens, rotary = embed_packed(encoder, pixels, ids, layout, tables)
        parts.append(_run_blocks(encoder, tokens, rotary, layout, output_hidden_states))

    def per_frame(values: list[Tensor | None]) -> Tensor | None:
        tensors = [value for value in values if value is not None]
        return _cat(tensors).unflatten(0, (B, T)) if tensors else None

    pooled = per_frame([part.pooled for part in parts])
    if pooled is not None and plan.filled is not None:
        pooled = pooled.gather(1, plan.filled[..., None].expand_as(pooled))
    if pooled is not None and plan.is_empty is not None:
        pooled = pooled.masked_fill(plan.is_empty[..., None], 0.0)
    return Features(
        _cat([part.patches for part in parts]),
        per_frame([part.prefix for part in parts]),
        pooled,
        [_cat(states) for states in zip(*(part.layers for part in parts), strict=True)],
    )


def _batches(
    encoder: EncoderAdapter, gaze: PackedPatches, settings: GazedSettings
) -> Iterator[tuple[int, tuple[tuple[int, ...], ...]]]:
    """Batches of clips that are encoded together: the first frame, and the clips' lengths."""
    clips = list(gaze.clips)
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
        return _asking_for_gradients(encoder, tokens), rotary
    # Patches and prefixes, one after the other, taken in the order of the sequence.
    num_frames = len(layout.frame_lengths)
    order = layout.from_patches
    tokens = torch.cat([tokens, prefix.repeat(num_frames, 1)])[order]
    if rotary is not None:  # class and register tokens are not rotated
        sin = rotary[1].new_zeros(num_frames * len(prefix), rotary[1].shape[1])
        cos = torch.ones_like(sin)
        rotary = torch.cat([rotary[0], cos])[order], torch.cat([rotary[1], sin])[order]
    return _asking_for_gradients(encoder, tokens), rotary


def _asking_for_gradients(
    encoder: EncoderAdapter, tokens: Float[Tensor, "N C"]
) -> Float[Tensor, "N C"]:
    """Tokens of frozen embeddings, where reentrant checkpoints of blocks need some that ask for gradients.

    They have gradients only where what is given to them asks for some. To that end transformers
    hooks the module of the embeddings, which is not called here. Elsewhere frozen blocks would be
    run again and back-propagated through for nothing.
    """
    if (
        torch.is_grad_enabled()
        and not tokens.requires_grad
        and any(map(checkpoints_reentrantly, encoder.layers))
        and any(weight.requires_grad for layer in encoder.layers for weight in layer.parameters())
    ):
        tokens.requires_grad_()
    return tokens


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
