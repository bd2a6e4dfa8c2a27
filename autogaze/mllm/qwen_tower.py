"""The vision towers of Qwen-VL on kept units: what Qwen2.5-VL and Qwen3-VL have in common.

Patches of a unit stand together in a tower's input, units row by row, tubelet by tubelet. A tubelet
is one segment of attention, so one frame's positions serve all of them.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.adapter import DenseVisual, MLLMAdapter, VisualInput
from autogaze.mllm.checks import as_sizes, check_pixels
from autogaze.mllm.prompt import Kind, Placeholder
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.vision_encoders.blocks import PackedBlocks
from autogaze.vision_encoders.layout import TokenLayout

Rotary = tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]
"""Cosines and sines."""

_GRIDS: dict[Kind, str] = {"video": "video_grid_thw", "image": "image_grid_thw"}
_PIXELS: dict[Kind, str] = {"video": "pixel_values_videos", "image": "pixel_values"}
"""Names of a dense input."""


class QwenAdapter(MLLMAdapter):
    """What the adapters of Qwen2.5-VL and Qwen3-VL share: dense inputs and one tower's tables."""

    dense_inputs = (
        "pixel_values",
        "pixel_values_videos",
        "image_grid_thw",
        "video_grid_thw",
        "second_per_grid_ts",
        "mm_token_type_ids",
    )

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.model.visual

    @property
    def merge(self) -> int:
        """Patches along a side of a unit."""
        return self.tower.spatial_merge_size

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return (
            Placeholder(self.config.video_token_id, "video"),
            Placeholder(self.config.image_token_id, "image"),
        )

    def dense(self, inputs: Mapping[str, Any]) -> dict[Kind, list[DenseVisual]]:
        intervals = inputs.get("second_per_grid_ts")
        check_pixels(inputs, tuple(_PIXELS.values()))
        dense: dict[Kind, list[DenseVisual]] = {"video": [], "image": []}
        for kind, name in _PIXELS.items():
            pixels, end = inputs.get(name), 0
            sizes = as_sizes(inputs.get(_GRIDS[kind]), _GRIDS[kind])
            for number, (tubelets, rows, columns) in enumerate(sizes):
                grid = UnitGrid(tubelets, ((rows // self.merge, columns // self.merge),))
                first, end = end, end + tubelets * grid.num_units * self.merge**2
                if pixels is None or len(pixels) < end:
                    have = "none" if pixels is None else f"{len(pixels)}"
                    raise MLLMError(
                        f"{name} needs at least {end} rows for {kind} {number}, got {have}"
                    )
                interval = None
                if kind == "video" and intervals is not None:
                    interval = float(intervals[number])
                dense[kind].append(DenseVisual(grid, pixels[first:end], interval))
        return dense

    def cut(self, kind: Kind, pixels: Tensor, kept: KeptUnits) -> Float[Tensor, "N values"]:
        units = kept.tubelet * kept.grid.num_units + kept.ids
        return pixels[patches_of(units, self.merge).to(pixels.device)]

    def project(
        self, visual: VisualInput
    ) -> tuple[Float[Tensor, "N C"], Int[Tensor, " N"], tuple[int, ...]]:
        """Projected patches, their places among a tubelet's patches, and segments' lengths."""
        merged = self.merge**2
        expected = visual.kept.num_units * merged
        if len(visual.pixels) != expected:
            raise MLLMError(
                f"{visual.kept} needs {expected} rows of pixels, got {len(visual.pixels)}"
            )
        weight = self.tower.patch_embed.proj.weight
        # The family's own convolution, and its values bit for bit. A matrix product of the same
        # weights takes a third of its time on a CPU, which is 1 % of the whole tower of a 2B model.
        tokens = self.tower.patch_embed(visual.pixels.to(weight.device, weight.dtype))
        index = patches_of(visual.kept.ids, self.merge).to(tokens.device)
        segments = tuple(count * merged for count in visual.kept.segments if count)
        return tokens, index, segments

    def grids_thw(self, grid: UnitGrid) -> list[Int[Tensor, "one 3"]]:
        """One frame of every grid of a tubelet, in patches, as the towers take grids."""
        device = self.tower.patch_embed.proj.weight.device
        merge = self.merge
        return [
            torch.tensor([[1, rows * merge, columns * merge]], device=device)
            for rows, columns in grid.grids
        ]

    def rotary(self, grid: UnitGrid, index: Int[Tensor, " N"], like: Tensor) -> Rotary:
        """Rotary positions of patches, by their places among a tubelet's patches."""
        tables = [self._rotary_table(sizes, like) for sizes in self.grids_thw(grid)]
        cos, sin = (torch.cat(parts)[index] for parts in zip(*tables, strict=True))
        return cos, sin

    def _rotary_table(self, grid_thw: Int[Tensor, "one 3"], like: Tensor) -> Rotary:
        tower: Any = self.tower
        try:
            from transformers.vision_utils import get_vision_position_ids
        except ImportError:  # before transformers 5.9
            angles = tower.rot_pos_emb(grid_thw)
        else:
            ids = get_vision_position_ids(grid_thw, self.merge)
            if "x" in inspect.signature(tower.rotary_pos_emb.forward).parameters:
                return tower.rotary_pos_emb(like, ids)
            angles = tower.rotary_pos_emb(ids)  # 5.15 and before
        angles = angles.flatten(1)
        angles = torch.cat([angles, angles], dim=-1).to(like.device)
        return angles.cos(), angles.sin()

    @cached_property
    def _blocks(self) -> PackedBlocks:
        return PackedBlocks(self.tower)

    def run(
        self, block: Any, tokens: Float[Tensor, "N C"], segments: TokenLayout, rotary: Rotary
    ) -> Float[Tensor, "N C"]:
        """A block of the tower, whose attention stays within segments.

        The tower's own attention calls SDPA once per segment. Here it hands its tokens on as one
        sequence to packed attention, which makes one call for all segments of equal lengths.
        """
        whole = torch.tensor([0, len(tokens)], dtype=torch.int32, device=tokens.device)
        options = {"cu_seqlens": whole, "position_embeddings": rotary, "layout": segments}
        return self._blocks.run(block, functools.partial(block, **options), tokens)


def patches_of(units: Int[Tensor, " K"], merge: int) -> Int[Tensor, " N"]:
    """Rows of the patches of units, those of a unit one after another."""
    return (units[:, None] * merge**2 + torch.arange(merge**2, device=units.device)).flatten()


def segment_layout(lengths: Sequence[int], device: torch.device) -> TokenLayout:
    """Segments of these lengths, each of which sees itself."""
    return TokenLayout((tuple(lengths),), "frame_independent", device)
