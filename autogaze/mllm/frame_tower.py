"""Towers that encode frame by frame, on the patches of kept units.

Families whose frames are images to the vision encoder share this: a frame is a segment of
attention, and the position of a token is its index in the dense prompt.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import DenseVisual, MLLMAdapter, VisualInput
from autogaze.mllm.prompt import Kind, Placeholder, PositionRule, SequencePositions
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.utils.device import sent
from autogaze.vision_encoders.adapter import EncoderAdapter, Rotary
from autogaze.vision_encoders.blocks import PackedBlocks
from autogaze.vision_encoders.encode import embed_packed
from autogaze.vision_encoders.layout import TokenLayout, token_layout
from autogaze.vision_encoders.patches import cut_cells
from autogaze.vision_encoders.positions import PositionTables
from autogaze.vision_encoders.registry import adapter_class

MAX_TOKENS = 16384
"""Patches that are encoded together, at least a frame at a time; with gradients, all."""


@dataclass(frozen=True, eq=False)
class FramePatches:
    """The patches of kept units.

    Args:
        index: (N,) places among the patches of a tubelet, grid by grid, on the CPU.
        tubelet: (N,) whose they are, ascending.
        lengths: of every attention segment; none is empty.
    """

    index: Int[Tensor, " N"]
    tubelet: Int[Tensor, " N"]
    lengths: tuple[int, ...]


class FrameAdapter(MLLMAdapter):
    """What adapters of families share whose tower encodes square frames one by one."""

    any_size = False

    @property
    def tower(self) -> torch.nn.Module:
        """The vision transformer."""
        return self.model.model.vision_tower

    @cached_property
    def encoder(self) -> EncoderAdapter:
        """The tower's own modules, as gazed encoding takes them."""
        return adapter_class(self.tower.config)(self.tower)

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        return SequencePositions()

    def patch_sides(self, grid: UnitGrid) -> list[int]:
        """Patches along a side of every grid of a tubelet."""
        raise NotImplementedError

    def patches(self, kept: KeptUnits) -> FramePatches:
        """The patches that kept units are made of, in the order of their pixels."""
        raise NotImplementedError

    def cut(self, kind: Kind, pixels: Tensor, kept: KeptUnits) -> Float[Tensor, "N 3 p p"]:
        patches = self.patches(kept)
        index, tubelet = (sent(x, pixels.device) for x in (patches.index, patches.tubelet))
        return cut_cells(pixels, tubelet, index, self.encoder.patch_size)

    def check_frames(self, name: str, frames: Tensor) -> int:
        """The side of square frames in patches.

        Raises:
            MLLMError: they are no square frames.
        """
        if frames.ndim < 4 or frames.shape[-3] != 3 or frames.shape[-1] != frames.shape[-2]:
            raise MLLMError(f"{name} must hold square frames, (..., 3, S, S), got {frames.shape}")
        return frames.shape[-1] // self.encoder.patch_size

    def encode_frames(
        self, visual: VisualInput, layers: Sequence[int] | None
    ) -> list[Float[Tensor, "N C"]]:
        """Features of the patches of kept units.

        Args:
            visual: its pixels in the order of `patches`.
            layers: hidden states to return: 0 those before the first block, -1 those behind the
                last; None for one feature, behind the tower's last norm.
        """
        encoder, patches = self.encoder, self.patches(visual.kept)
        each = (3, encoder.patch_size, encoder.patch_size)
        got = tuple(visual.pixels.shape)
        if got != (len(patches.index), *each):
            raise MLLMError(
                f"{visual.kept} needs the pixels of {len(patches.index)} patches, {each} each, "
                f"got {got[0]} of {got[1:]}"
            )
        device = encoder.projection.weight.device
        tables = PositionTables.of_grids(encoder, self.patch_sides(visual.kept.grid))
        parts = []
        first = 0
        blocks = PackedBlocks(encoder.model)
        for lengths in _batches(patches.lengths):
            here = slice(first, first + sum(lengths))
            first = here.stop
            layout = token_layout((lengths,), "frame_independent", device, encoder.num_prefix)
            pixels = visual.pixels[here].to(device, encoder.dtype)
            index = sent(patches.index[here], device)
            tokens, rotary = embed_packed(encoder, pixels, index, layout, tables)
            parts.append(_hidden_states(encoder, blocks, tokens, rotary, layout, layers))
        return [torch.cat(states) for states in zip(*parts, strict=True)]


class ShuffledAdapter(FrameAdapter):
    """Families whose unit is a square of patches side by side (pixel shuffle).

    To them frames and images are one: all that a row of a dense input has count as one video.
    Pixels are those of patches, (N, 3, p, p), or of whole units, (K, 3, u, u): a processor does not
    know into how many patches its model cuts a unit.
    """

    @property
    def merge(self) -> int:
        """Patches along a side of a unit."""
        raise NotImplementedError

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return (Placeholder(self.config.image_token_id, "video"),)

    def dense(self, inputs: Mapping[str, Any]) -> dict[Kind, list[DenseVisual]]:
        videos = []
        for frames in self.rows(inputs):
            side = self.check_frames("pixel_values", frames) // self.merge
            videos.append(DenseVisual(UnitGrid(len(frames), ((side, side),)), frames))
        return {"video": videos}

    def rows(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Frames (T, 3, S, S) of the rows of a dense input that have some."""
        raise NotImplementedError

    def patch_sides(self, grid: UnitGrid) -> list[int]:
        for rows, columns in grid.grids:
            if rows != columns:
                raise MLLMError(f"the model's frames are square, got a grid of {rows} x {columns}")
        return [rows * self.merge for rows, _ in grid.grids]

    def patches(self, kept: KeptUnits) -> FramePatches:
        merge = self.merge
        sides = torch.tensor(self.patch_sides(kept.grid))
        starts = torch.tensor([0, *accumulate((sides**2).tolist())])
        grid, row, column = kept.places.unbind(-1)
        inner = torch.arange(merge)
        row = (row * merge)[:, None, None] + inner[:, None]
        column = (column * merge)[:, None, None] + inner
        index = starts[grid][:, None, None] + row * sides[grid][:, None, None] + column
        return FramePatches(
            index.flatten(),
            kept.tubelet.repeat_interleave(merge**2),
            tuple(count * merge**2 for count in kept.segments if count),
        )

    def encode_units(
        self, visual: VisualInput, layers: Sequence[int] | None
    ) -> Float[Tensor, "K units"]:
        """The features of every kept unit's patches side by side; `layers` names one, or is None."""
        merge, patch, pixels = self.merge, self.encoder.patch_size, visual.pixels
        if merge > 1 and pixels.shape[1:] == (3, merge * patch, merge * patch):
            sides = (merge, patch)
            cells = pixels.unflatten(3, sides).unflatten(2, sides)  # K, 3, m, p, m, p
            visual = replace(visual, pixels=cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
        (features,) = self.encode_frames(visual, layers)
        return features.unflatten(0, (-1, merge**2)).flatten(1)


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Lengths of segments that are encoded together."""
    limit = math.inf if torch.is_grad_enabled() else MAX_TOKENS
    batch: list[int] = []
    for length in lengths:
        if batch and sum(batch) + length > limit:
            yield tuple(batch)
            batch = []
        batch.append(length)
    yield tuple(batch)


def _hidden_states(
    encoder: EncoderAdapter,
    blocks: PackedBlocks,
    tokens: Float[Tensor, "N C"],
    rotary: Rotary | None,
    layout: TokenLayout,
    layers: Sequence[int] | None,
) -> list[Float[Tensor, "n C"]]:
    """The wanted hidden states of packed patches; blocks behind the last of them are not run."""
    x = encoder.enter(tokens[None])
    every = list(encoder.layers)
    patches = layout.patch_index
    wanted = None if layers is None else [range(len(every) + 1)[layer] for layer in layers]
    states = {0: x[0, patches]} if wanted and 0 in wanted else {}
    for number, block in enumerate(every[: None if wanted is None else max(wanted)], start=1):
        x = blocks.run(
            block, functools.partial(encoder.run, block, layout=layout, rotary=rotary), x
        )
        if wanted and number in wanted:
            states[number] = x[0, patches]
    if wanted is None:
        return [encoder.leave(x)[0, patches]]
    return [states[number] for number in wanted]
