"""Qwen2.5-VL: 2 x 2 patches of 2 frames per unit, window attention, time in seconds."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.mllm.adapter import IS_TRANSFORMERS_4, VisualFeatures, VisualInput
from autogaze.mllm.prompt import MRopePositions, PositionRule
from autogaze.mllm.qwen_tower import (
    QwenAdapter,
    patches_of,
    segment_layout,
)
from autogaze.mllm.units import KeptUnits


def time_positions(visuals: Sequence[VisualInput], rate: float) -> MRopePositions:
    """Positions of units of visuals, at `rate` positions per second."""
    seconds = [1.0 if visual.interval is None else visual.interval for visual in visuals]
    if IS_TRANSFORMERS_4:  # which cuts them to whole seconds
        seconds = [float(int(second)) for second in seconds]
    intervals = tuple(second * rate for second in seconds)
    return MRopePositions(intervals, time_advances=IS_TRANSFORMERS_4)


class Qwen25VLAdapter(QwenAdapter):
    """Adapter of `Qwen2_5_VLForConditionalGeneration`."""

    def rule(self, visuals: Sequence[VisualInput]) -> PositionRule:
        return time_positions(visuals, self.config.vision_config.tokens_per_second)

    def encode(self, visual: VisualInput) -> VisualFeatures:
        tokens, index, lengths = self.project(visual)
        cos, sin = self.rotary(visual.kept.grid, index, tokens)
        order, windows = self._windows(visual.kept)
        order = order.to(tokens.device)
        by_patch = patches_of(order, self.merge)
        tokens, rotary = tokens[by_patch], (cos[by_patch], sin[by_patch])
        tower = self.tower
        whole = segment_layout(lengths, tokens.device)
        windowed = segment_layout([n * self.merge**2 for n in windows], tokens.device)
        for number, block in enumerate(tower.blocks):
            layout = whole if number in tower.fullatt_block_indexes else windowed
            tokens = self.run(block, tokens, layout, rotary)
        return VisualFeatures(tower.merger(tokens)[order.argsort()])

    def _windows(self, kept: KeptUnits) -> tuple[Int[Tensor, " K"], list[int]]:
        """The order of kept units window by window, and how many each window has."""
        side = self.tower.window_size // self.merge // self.tower.patch_size
        grid, row, column = kept.places.unbind(-1)
        # Windows row by row in a grid, grids coarse to fine in a tubelet.
        widest = max(max(sides) for sides in kept.grid.grids) // side + 1
        key = (kept.tubelet * len(kept.grid.grids) + grid) * widest + row // side
        key = key * widest + column // side
        order = key.argsort(stable=True)
        return order, torch.unique_consecutive(key[order], return_counts=True)[1].tolist()
