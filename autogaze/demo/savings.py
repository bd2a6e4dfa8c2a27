"""What a gaze saves two vision encoders, counted from their architectures.

One patch is one token, whatever its scale. Dense encoding sees every frame of every tile alone and
whole; gazed encoding sees the chosen patches of a clip, each frame those before it (`autogaze.gazed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from autogaze.evaluation.flops import EncoderFlops, selection_flops
from autogaze.gaze import Gaze
from autogaze.selectors.base import Selector


@dataclass(frozen=True)
class Architecture:
    """A SigLIP2 encoder of square frames of 224 pixels in patches of 16."""

    name: str
    width: int
    mlp: int
    layers: int
    heads: int


ARCHITECTURES = (
    Architecture("SigLIP2-base", 768, 3072, 12, 12),
    Architecture("SigLIP2-SO400M", 1152, 4304, 27, 16),
)


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


@cache
def encoder_flops(architecture: Architecture) -> EncoderFlops:
    """Counted on a model without weights in memory."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from autogaze.vision_encoders.registry import adapter_class

    config = SiglipVisionConfig(
        hidden_size=architecture.width,
        intermediate_size=architecture.mlp,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        image_size=224,
        patch_size=16,
    )
    with torch.device("meta"):
        model = SiglipVisionModel(config)
    return EncoderFlops.of(adapter_class(config)(model))


class SavingsCounter:
    """Adds up the FLOP of gazes."""

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
        for architecture in ARCHITECTURES:
            flops = encoder_flops(architecture)
            one = flops.embedding(whole) + flops.encoding([[whole]], "frame_independent")
            self._dense[architecture] += frames * one
            self._gazed[architecture] += flops.embedding(gaze.num_patches)
            self._gazed[architecture] += flops.encoding(lengths, "block_causal")

    @property
    def savings(self) -> tuple[Saving, ...]:
        """Of the gazes added so far."""
        return tuple(
            Saving(one.name, self._dense[one], self._gazed[one], self._selecting)
            for one in ARCHITECTURES
        )
