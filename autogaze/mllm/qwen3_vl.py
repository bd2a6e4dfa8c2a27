"""Qwen3-VL and Qwen3.5: 2 x 2 patches of 2 frames per unit, timestamps between tubelets.

Each tubelet is a block of placeholders of its own. Features of some layers of the vision tower are
added after the LLM's first layers (deepstack); Qwen3.5 has none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.mllm.adapter import VisualFeatures, VisualInput
from autogaze.mllm.prompt import MRopePositions, PositionRule
from autogaze.mllm.qwen_tower import QwenAdapter, segment_layout
from autogaze.mllm.units import UnitGrid


class Qwen3VLAdapter(QwenAdapter):
    """Adapter of `Qwen3VLForConditionalGeneration` and those built like it."""

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        return MRopePositions()

    def encode(self, visual: VisualInput) -> VisualFeatures:
        tokens, index, lengths = self.project(visual)
        grid = visual.kept.grid
        tokens = tokens + self._positions(grid, index).to(tokens.dtype)
        rotary = self.rotary(grid, index, tokens)
        tower = self.tower
        layout = segment_layout(lengths, tokens.device)
        levels = getattr(tower, "deepstack_visual_indexes", ())
        deepstack = []
        for number, block in enumerate(tower.blocks):
            tokens = self.run(block, tokens, layout, rotary)
            if number in levels:
                merger = tower.deepstack_merger_list[levels.index(number)]
                deepstack.append(merger(tokens))
        return VisualFeatures(tower.merger(tokens), tuple(deepstack))

    def _positions(self, grid: UnitGrid, index: Int[Tensor, " N"]) -> Float[Tensor, "N C"]:
        """Learned positions of patches, by their places among a tubelet's patches."""
        tower = self.tower
        if not hasattr(tower, "interpolation_mode"):  # transformers 5.12 and before
            return torch.cat([_bilinear(tower, sizes) for sizes in self.grids_thw(grid)])[index]
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        taps = [
            get_vision_interpolation_indices_and_weights(
                sizes,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=self.merge,
            )
            for sizes in self.grids_thw(grid)
        ]
        cells, weights = (torch.cat(parts) for parts in zip(*taps, strict=True))
        # A patch that many tubelets keep is interpolated once.
        used, inverse = index.unique(return_inverse=True)
        table = (tower.pos_embed(cells[used]) * weights[used][:, :, None]).sum(1)
        return table[inverse]


def _bilinear(tower: Any, grid_thw: Int[Tensor, "one 3"]) -> Float[Tensor, "N C"]:
    """Positions of a frame by earlier versions of transformers."""
    try:
        from transformers.vision_utils import get_vision_bilinear_indices_and_weights
    except ImportError:  # before 5.9
        return tower.fast_pos_embed_interpolate(grid_thw)
    cells, weights = get_vision_bilinear_indices_and_weights(
        grid_thw,
        num_grid_per_side=tower.num_grid_per_side,
        spatial_merge_size=tower.spatial_merge_size,
    )
    return (tower.pos_embed(cells) * weights[:, :, None]).sum(0)
