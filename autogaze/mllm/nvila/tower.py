"""The vision tower on gazed patches whose pixels have been cut, and the projector to the LLM's width."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.errors import MLLMError
from autogaze.mllm.nvila.gazed_video import GazedClips
from autogaze.utils.device import sent
from autogaze.vision_encoders import attention
from autogaze.vision_encoders.layout import AttentionType, token_layout
from autogaze.vision_encoders.positions import PositionTables
from autogaze.vision_encoders.siglip.adapter import SiglipAdapter
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel


def encode(tower: SiglipVisionModel, clips: GazedClips, clips_at_once: int) -> Float[Tensor, "N C"]:
    """Second-to-last hidden states of gazed patches, in the order of the gaze.

    They are those of `tower(frames, gazing_info=gaze, output_hidden_states=True)`; the last layer
    and the final norm, which nobody reads, are not computed.

    Raises:
        MLLMError: a gaze of another grid than the tower's.
    """
    config = tower.config
    pyramid = config.pyramid
    if clips.gaze.pyramid != pyramid:
        raise MLLMError(
            f"the gaze was made for {clips.gaze.pyramid} (scales / patch size), the vision tower "
            f"takes {pyramid}; give the processor target_scales={list(pyramid.scales)} and "
            f"target_patch_size={pyramid.patch_size}"
        )
    # A model that this one is part of may have chosen another one for all its parts.
    config._attn_implementation = attention.registered()
    attn_type: AttentionType = (
        "frame_independent" if config.frame_independent_encoding else config.attn_type  # type: ignore[assignment]
    )
    adapter = SiglipAdapter(tower)
    device = adapter.projection.weight.device
    table = PositionTables.of(adapter, pyramid).positions
    if table is None:  # SigLIP has one
        raise MLLMError("the vision tower has no position embeddings")
    layers = list(adapter.layers)[:-1]
    states = []
    for part in clips.split(clips_at_once):
        pixels = sent(part.pixels, device).to(adapter.dtype)
        x = (adapter.project(pixels) + table[sent(part.gaze.ids, device)])[None]
        lengths = tuple(tuple(clip) for clip in part.gaze.lengths.tolist())
        if attn_type == "frame_independent":
            lengths = tuple((count,) for clip in lengths for count in clip)
        layout = token_layout(lengths, attn_type, device)
        for layer in layers if x.numel() else ():
            x = adapter.run(layer, x, layout, None)
        states.append(x[0])
    return torch.cat(states)


class Projector(nn.Sequential):
    """LayerNorm, Linear, GELU, LayerNorm, Linear, GELU, Linear.

    Args:
        inner: channels of the patches of one token, side by side.
        hidden: channels between the layers.
        outer: channels of the LLM's embeddings.
    """

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__(
            nn.LayerNorm(inner),
            nn.Linear(inner, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, outer),
        )

    def forward(self, tokens: Float[Tensor, "N inner"]) -> Float[Tensor, "N outer"]:
        return super().forward(tokens)
