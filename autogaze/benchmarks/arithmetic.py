"""How much arithmetic a selection takes, counted from the architecture.

Multiplications and additions count one FLOP each. For the learned selector nothing
is skipped, whatever an implementation manages to leave out: every token passes every
layer, every query meets all keys before it and its own.
"""

from collections.abc import Sequence

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig


def learned_flops(config: AutoGazeConfig, caps: Sequence[int]) -> int:
    """FLOP of gazing at one clip with `caps[t]` patches in frame t.

    At the default architecture and 16 frames: 37.3 GFLOP at ratio 0.1, 87.4 at 0.75.
    """
    model = config.gaze_model_config
    stem, decoder = model.vision_model_config, model.gaze_decoder_config
    frames, tokens = len(caps), model.connector_config.num_tokens
    length = frames * tokens + sum(caps)

    patch = 3 * stem.kernel_size**2 * stem.hidden_dim
    kernel = stem.trunk_temporal_kernel_size * stem.trunk_spatial_kernel_size**2
    trunk = stem.depth * kernel * stem.hidden_dim**2
    vision = 2 * frames * tokens * (patch + trunk + stem.hidden_dim * stem.out_dim)

    width, heads = decoder.hidden_size, decoder.num_attention_heads * decoder.head_dim
    groups = decoder.num_key_value_heads * decoder.head_dim
    token = 2 * width * (2 * heads + 2 * groups + 3 * decoder.intermediate_size)
    attention = 4 * heads * (length * (length + 1) // 2)
    K = decoder.num_multi_token_pred
    blocks = sum(-(-cap // K) for cap in caps)
    outputs = 2 * blocks * width * K * (decoder.vocab_size + 1)
    return vision + decoder.num_hidden_layers * (length * token + attention) + outputs


def canvas_flops(pyramid: PatchPyramid, frames: int) -> int:
    """FLOP of what `greedy` must know of a clip: how well every cell could be painted.

    Per frame the picture is brought to every coarser scale and back (a product with a
    resizing matrix a direction), and each is compared with the frame, as the canvas is.
    The search itself only adds up and compares a few hundred numbers a pick.
    """
    side = pyramid.side
    resizing = sum(
        2 * 2 * 3 * scale * side * (side + scale) for scale in pyramid.scales if scale != side
    )
    comparing = 2 * 3 * side * side * len(pyramid.scales)
    return frames * (resizing + comparing)


def difference_flops(pyramid: PatchPyramid, frames: int) -> int:
    """FLOP of comparing every frame with an earlier one, pixel by pixel."""
    return frames * 3 * 3 * pyramid.side**2
