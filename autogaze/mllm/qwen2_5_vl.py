"""Qwen2.5-VL: 2 x 2 patches of 2 frames per unit, window attention, time in seconds."""

import inspect
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.mllm.adapter import VisualFeatures, VisualInput
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
    whole_seconds, time_advances = _position_conventions()
    if whole_seconds:
        seconds = [float(int(second)) for second in seconds]
    return MRopePositions(tuple(second * rate for second in seconds), time_advances)


@cache
def _position_conventions() -> tuple[bool, bool]:
    """Whether transformers cuts seconds to whole ones, and places text behind a video's last time too.

    Its versions differ, so its own function is asked, of two tubelets of one unit, 1.5 seconds apart.
    """
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    start, video, image, end = 0, 1, 2, 3
    tokens = torch.tensor([[start, video, video, end]])
    # Without weights: the function reads nothing but the configuration.
    asked: Any = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    asked.__dict__["config"] = SimpleNamespace(
        vision_start_token_id=start,
        video_token_id=video,
        image_token_id=image,
        vision_config=SimpleNamespace(spatial_merge_size=2, tokens_per_second=2),
    )
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "video_grid_thw": torch.tensor([[2, 2, 2]]),
        "second_per_grid_ts": torch.tensor([1.5]),
        "mm_token_type_ids": 2 * (tokens == video).int(),
    }
    known = inspect.signature(Qwen2_5_VLModel.get_rope_index).parameters
    found, _ = asked.get_rope_index(**{name: inputs[name] for name in known if name in inputs})
    _, first, second, after = found[0, 0].tolist()
    return second - first == 2, after > first + 1


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
