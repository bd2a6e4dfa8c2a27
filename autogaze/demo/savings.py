"""What a gaze saves two vision encoders, counted from their architectures.

One patch is one token, whatever its scale. Dense encoding sees every frame of every tile alone and
whole; gazed encoding sees the chosen patches of a clip, each frame those before it (`autogaze.gazed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from autogaze.evaluation.encoders import siglip
from autogaze.evaluation.flops import EncoderFlops, selection_flops
from autogaze.gaze import Gaze
from autogaze.selectors.base import Selector
from autogaze.vision_encoders.registry import adapter_class

ARCHITECTURES = {
    "SigLIP2-base": (768, 3072, 12, 12),
    "SigLIP2-SO400M": (1152, 4304, 27, 16),
}
"""Width, width of the MLP, layers and heads of SigLIP2 encoders, here of 224 pixels a side in patches of 16."""


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
def encoder_flops(name: str) -> EncoderFlops:
    """Of one of `ARCHITECTURES`, counted on a model without weights in memory."""
    with torch.device("meta"):
        model = siglip(*ARCHITECTURES[name], side=224, patch=16)
    return EncoderFlops.of(adapter_class(model.config)(model))


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
        for name in ARCHITECTURES:
            flops = encoder_flops(name)
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
