"""Arithmetic of selecting and of encoding, counted from the architectures, and what a gaze saves of it.

A multiplication and an addition count one FLOP each. Counted are the products with weights
and those of attention, at the lengths that there really are; resizing (except in the canvas),
norms and activations are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import nn

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.reconstruction.resample import source_level
from autogaze.selectors.base import Selector
from autogaze.selectors.learned import Learned
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.layout import AttentionType


def selection_flops(selector: Selector, lengths: Sequence[Sequence[int]]) -> int:
    """FLOP of selecting `lengths[b][t]` patches of frame t of clip b; 0 where nothing is computed."""
    if isinstance(selector, Learned):
        return sum(learned_flops(selector.config, clip) for clip in lengths)
    frames = sum(len(clip) for clip in lengths)
    if selector.name == "greedy":
        return canvas_flops(selector.pyramid, frames)
    if selector.name in ("run-length", "change"):
        return difference_flops(selector.pyramid, frames)
    return 0


def learned_flops(config: AutoGazeConfig, lengths: Sequence[int]) -> int:
    """FLOP of gazing at one clip with `lengths[t]` patches in frame t.

    At the default architecture and 16 frames: 37.3 GFLOP at ratio 0.1, 87.4 at 0.75.
    """
    model = config.gaze_model_config
    stem, decoder = model.vision_model_config, model.gaze_decoder_config
    frames, tokens = len(lengths), model.connector_config.num_tokens
    length = frames * tokens + sum(lengths)

    patch = 3 * stem.kernel_size**2 * stem.hidden_dim
    kernel = stem.trunk_temporal_kernel_size * stem.trunk_spatial_kernel_size**2
    trunk = stem.depth * kernel * stem.hidden_dim**2
    vision = 2 * frames * tokens * (patch + trunk + stem.hidden_dim * stem.out_dim)

    width, heads = decoder.hidden_size, decoder.num_attention_heads * decoder.head_dim
    groups = decoder.num_key_value_heads * decoder.head_dim
    token = 2 * width * (2 * heads + 2 * groups + 3 * decoder.intermediate_size)
    attention = 4 * heads * (length * (length + 1) // 2)
    K = decoder.num_multi_token_pred
    blocks = sum(-(-count // K) for count in lengths)
    outputs = 2 * blocks * width * K * (decoder.vocab_size + 1)
    return vision + decoder.num_hidden_layers * (length * token + attention) + outputs


def canvas_flops(pyramid: PatchPyramid, frames: int) -> int:
    """FLOP of what `greedy` must know of a clip: how well every cell could be painted.

    Per frame the picture is reduced to every coarser scale and enlarged again, and each is
    compared with the frame, as the canvas is: along each axis every pixel is a sum of those that
    it covers, or of 4. The search itself only adds up and compares a few hundred numbers per patch.
    At the default pyramid and 16 frames: 0.12 GFLOP.
    """
    side, finest = pyramid.side, len(pyramid.scales) - 1
    resizing = 0
    for level, scale in enumerate(pyramid.scales[:-1]):
        source = pyramid.scales[source_level(pyramid, level)]
        reducing = source * source + scale * source
        resizing += 2 * 3 * (reducing + 4 * side * (scale + side))
    comparing = 3 * 3 * side * side * (finest + 1)
    return frames * (resizing + comparing)


def difference_flops(pyramid: PatchPyramid, frames: int) -> int:
    """FLOP of comparing every frame with an earlier one, pixel by pixel."""
    return frames * 3 * 3 * pyramid.side**2


@dataclass(frozen=True)
class EncoderFlops:
    """FLOP of one encoder; whole frames are clips of one frame each.

    Attributes:
        patch: of projecting a patch.
        token: of a token in all blocks, attention aside.
        pair: of a query and a key in all blocks.
        pooled_token, pooled_pair, pooled_frame: of the pooling head, per token, per key of its
            attention (frames are padded to the longest) and per frame.
        num_prefix: class and register tokens per frame.
    """

    patch: int
    token: int
    pair: int
    pooled_token: int
    pooled_pair: int
    pooled_frame: int
    num_prefix: int

    @classmethod
    def of(cls, adapter: EncoderAdapter) -> "EncoderFlops":
        layers = list(adapter.layers)
        width = adapter.width
        return cls(
            2 * adapter.projection.weight.numel(),
            sum(_linear(layer) for layer in layers),
            4 * width * len(layers),
            *_pooling(adapter.model, width),
            adapter.num_prefix,
        )

    @classmethod
    def of_siglip(cls, width: int, mlp: int, num_layers: int, patch_size: int) -> "EncoderFlops":
        """Of a SigLIP encoder of these sizes, without a model to count on."""
        square, two_of_mlp = 2 * width * width, 4 * width * mlp
        return cls(
            patch=2 * 3 * patch_size**2 * width,
            token=num_layers * (4 * square + two_of_mlp),
            pair=num_layers * 4 * width,
            pooled_token=2 * square,
            pooled_pair=4 * width,
            pooled_frame=2 * square + two_of_mlp,
            num_prefix=0,
        )

    def embedding(self, num_patches: int) -> int:
        """FLOP of projecting so many patches."""
        return self.patch * num_patches

    def encoding(self, lengths: Sequence[Sequence[int]], attn_type: AttentionType) -> int:
        """FLOP of blocks and pooling for clips of frames with `lengths[b][t]` patches."""
        clips = [[n + self.num_prefix for n in clip] for clip in lengths]
        frames = [n for clip in clips for n in clip]
        tokens = sum(frames)
        pairs = sum(_pairs(clip, attn_type) for clip in clips)
        padded = len(frames) * max(frames, default=0)
        pooling = self.pooled_token * tokens + self.pooled_pair * padded
        pooling += self.pooled_frame * len(frames)
        return self.token * tokens + self.pair * pairs + pooling


def _pairs(frames: Sequence[int], attn_type: AttentionType) -> int:
    """Pairs of a query and a key that it attends to, in one clip."""
    if attn_type == "frame_independent":
        return sum(n * n for n in frames)
    if attn_type == "block_causal":
        return sum(n * before for n, before in zip(frames, accumulate(frames), strict=True))
    total = sum(frames)
    return total * total if attn_type == "bidirectional" else total * (total + 1) // 2


def _linear(module: nn.Module) -> int:
    """FLOP of one token in all linear layers of a module."""
    linear = (part for part in module.modules() if isinstance(part, nn.Linear))
    return sum(2 * part.weight.numel() for part in linear)


def _pooling(model: Any, width: int) -> tuple[int, int, int]:
    """FLOP per token, per key of the attention, and per frame."""
    head = getattr(model, "head", None)
    if isinstance(getattr(head, "attention", None), nn.MultiheadAttention):
        # A probe per frame attends to all tokens: keys and values of each, one query and output.
        square = 2 * width * width
        return 2 * square, 4 * width, square + _linear(head)  # type: ignore[arg-type]
    pooler = getattr(model, "pooler", None)
    return 0, 0, _linear(pooler) if isinstance(pooler, nn.Module) else 0


ARCHITECTURES = {
    "SigLIP2-base": EncoderFlops.of_siglip(768, 3072, 12, 16),
    "SigLIP2-SO400M": EncoderFlops.of_siglip(1152, 4304, 27, 16),
}
"""Encoders that see frames of 224 pixels a side in patches of 16."""


@dataclass(frozen=True)
class Saving:
    """FLOP of one encoder for a whole video.

    Args:
        encoder: its name.
        dense: of encoding every frame whole.
        gazed: of encoding the chosen patches.
        selecting: of choosing them.
    """

    encoder: str
    dense: int
    gazed: int
    selecting: int

    @property
    def share(self) -> float:
        """Saved share of dense encoding, in (-inf, 1): below 0 gazing costs more."""
        return 1 - (self.gazed + self.selecting) / self.dense


class SavingsCounter:
    """Adds up the FLOP of gazes, and of the frames whole.

    One patch is one token, whatever its scale. Dense encoding sees every frame of every tile alone and
    whole; gazed encoding sees the chosen patches of a clip, each frame those before it (`autogaze.gazed`).
    """

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._dense = dict.fromkeys(ARCHITECTURES, 0)
        self._gazed = dict.fromkeys(ARCHITECTURES, 0)
        self._selecting = 0

    def add(self, gaze: Gaze) -> None:
        """Add the gaze at the next chunk."""
        lengths: Sequence[Sequence[int]] = gaze.lengths.tolist()
        frames, whole = gaze.lengths.numel(), gaze.pyramid.cells[-1]
        self._selecting += selection_flops(self._selector, lengths)
        for name, flops in ARCHITECTURES.items():
            one = flops.embedding(whole) + flops.encoding([[whole]], "frame_independent")
            self._dense[name] += frames * one
            self._gazed[name] += flops.embedding(gaze.num_patches)
            self._gazed[name] += flops.encoding(lengths, "block_causal")

    @property
    def savings(self) -> tuple[Saving, ...]:
        """Of the gazes added so far."""
        return tuple(
            Saving(name, self._dense[name], self._gazed[name], self._selecting)
            for name in ARCHITECTURES
        )
