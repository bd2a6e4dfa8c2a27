"""Encoding gazes: patches to tokens, tokens through the blocks, features out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.fit import GazedSettings, check_fit
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.output import GazedOutput, hold
from autogaze.vision_encoders.patches import gazed_patches
from autogaze.vision_encoders.tables import PositionTables


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
