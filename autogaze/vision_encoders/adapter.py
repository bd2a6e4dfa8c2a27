"""Encoder adapters: the parts of a family of vision transformers that gazed encoding uses.

A subclass names how pixels become tokens, their positions, the layers and the pooling of one
family, and calls the model's own modules for each. `register_encoder` makes it known (see
docs/encoders.md).
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.geometry import PatchPyramid
from autogaze.utils.normalization import IMAGENET, PixelStatistics
from autogaze.vision_encoders.blocks import run_block
from autogaze.vision_encoders.layout import TokenLayout

Rotary = tuple[Float[Tensor, "cells D"], Float[Tensor, "cells D"]]
"""Cosines and sines of rotary positions."""


class EncoderAdapter:
    """Interface to the parts of one vision transformer; the defaults suit a plain ViT.

    Args:
        model: the transformers model; `trunk` finds the part with the embeddings.

    Attributes:
        num_prefix: class and register tokens per frame.
        positions_skipped: leading rows of the position table that belong to class tokens.
        statistics: pixel statistics, for checkpoints without an image processor.
        reads_constants: positions are computed of weights, buffers and constants alone. Only then
            are they kept for later calls where they read more than weights and buffers.
        asked_to_interpolate: whether the model takes images of other sides only when it
            is called with `interpolate_pos_encoding=True`.
    """

    num_prefix: int = 0
    positions_skipped: int = 0
    statistics: PixelStatistics = IMAGENET
    reads_constants: bool = False
    asked_to_interpolate: bool = False

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = trunk(model)
        self.config: Any = self.model.config

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return side_of(self.config.patch_size)

    @property
    def image_size(self) -> int:
        """Side of the frames that the model was made for, in pixels."""
        return side_of(self.config.image_size)

    @property
    def usual_pyramid(self) -> PatchPyramid:
        """Default scales, the largest of which is the side of a dense frame."""
        return scaled_pyramid(self.image_size, self.patch_size)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.projection.weight.shape[0]

    @property
    def projection(self) -> Any:
        """Patch projection: a convolution, a linear layer on flattened patches, or what wraps one."""
        return self.model.embeddings.patch_embedding

    @property
    def dtype(self) -> torch.dtype:
        return self.projection.weight.dtype

    @property
    def layers(self) -> Iterable[nn.Module]:
        """Transformer blocks, first to last."""
        return self.model.encoder.layers

    def project(self, patches: Float[Tensor, "N 3 p p"]) -> Float[Tensor, "N C"]:
        """Tokens of patches, without positions."""
        projection = self.projection
        if type(projection).forward is not nn.Conv2d.forward:  # wrapped, as by an adapter of LoRA
            return projection(patches).flatten(1)  # type: ignore[no-any-return]
        # On one patch the convolution is a matrix product.
        weight = projection.weight.flatten(1)
        return nn.functional.linear(patches.flatten(1), weight, projection.bias)

    def positions(self, grid: int) -> Float[Tensor, "cells C"] | None:
        """Position embeddings of a grid x grid scale, row by row; None where there are none.

        The default is the model's own `interpolate_pos_encoding`, so that a scale gets the
        positions that the untouched model gives an image of its size.
        """
        side = grid * self.patch_size
        # The model reads nothing but the shape of this argument.
        tokens = self.projection.weight.new_empty(1).expand(
            1, grid * grid + self.positions_skipped, self.width
        )
        table = self.model.embeddings.interpolate_pos_encoding(tokens, side, side)
        return table[0, self.positions_skipped :]

    def prefix(self) -> Float[Tensor, "P C"] | None:
        """Class and register tokens with their positions; None where there are none."""
        return None

    def rotary(self, grid: int) -> Rotary | None:
        """Cosines and sines of rotary positions of a grid x grid scale, row by row."""
        return None

    def enter(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        """Layers between the embeddings and the first block."""
        return tokens

    def run(
        self,
        layer: nn.Module,
        tokens: Float[Tensor, "one N C"],
        layout: TokenLayout,
        rotary: Rotary | None,
    ) -> Float[Tensor, "one N C"]:
        """One block, with the layout as its mask."""
        return run_block(layer, tokens, layout)

    def leave(self, tokens: Float[Tensor, "one N C"]) -> Float[Tensor, "one N C"]:
        """The norm after the last block, where it is part of the hidden states."""
        return self.model.layernorm(tokens)

    def pool(
        self, tokens: Float[Tensor, "N C"], layout: TokenLayout
    ) -> Float[Tensor, "frames C"] | None:
        """One feature per frame; by default the class token."""
        return tokens[layout.prefix_index[:, 0]]

    def dense(self, frames: Float[Tensor, "F 3 S S"]) -> Any:
        """Output of the untouched model for whole frames, in its normalisation.

        Returns:
            An object with `last_hidden_state` (F, P + cells, C), class and register tokens
            first, and, if the model pools, `pooler_output` (F, C).
        """
        if self.asked_to_interpolate and frames.shape[-1] != self.image_size:
            return self.model(frames, interpolate_pos_encoding=True)
        return self.model(frames)


def trunk(model: nn.Module) -> nn.Module:
    """The part of a model that holds its patch embeddings and blocks."""
    model = without_peft(model)
    inner = [getattr(model, name, None) for name in ("vision_model", "base_model")]
    for candidate in (model, *inner):
        if isinstance(candidate, nn.Module) and hasattr(candidate, "embeddings"):
            return candidate
    return model


def without_peft(model: nn.Module) -> nn.Module:
    """The model itself, with its adapters, where it is wrapped in a `PeftModel`."""
    wrapped = getattr(model, "get_base_model", None)
    return wrapped() if callable(wrapped) else model  # type: ignore[no-any-return]


def scaled_pyramid(side: int, patch_size: int) -> PatchPyramid:
    """AutoGaze's scales (1/7, 2/7, 1/2 and 1 of the side) in whole patches."""
    cells = [round(side * scale / 224 / patch_size) for scale in (32, 64, 112)]
    coarse = {cell * patch_size for cell in cells if cell >= 1 and cell * patch_size < side}
    return PatchPyramid((*sorted(coarse), side), patch_size, crop=True)


def side_of(size: int | tuple[int, int] | list[int]) -> int:
    """The side of a square that a configuration gives as one number or as two."""
    return size if isinstance(size, int) else size[0]
