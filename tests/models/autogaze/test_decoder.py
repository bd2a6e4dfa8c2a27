"""The gaze decoder against an untouched transformers Llama, and fused against plain."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from autogaze.models.autogaze.decoder import rope_frequencies, rotate_halves, rotations
from tests.models.autogaze.tiny import tiny_model


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_decoder_is_transformers_llama(kv_heads):
    model = tiny_model(kv_heads=kv_heads)
    decoder, config = model.gazing_model.gaze_decoder, model.gazing_model.gaze_decoder.config
    rope = dict(config.rope_parameters)
    known = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    try:
        llama_config = LlamaConfig(**_sizes(config), **known)
    except (KeyError, ValueError, TypeError):
        llama_config = LlamaConfig(**_sizes(config), rope_parameters=config.rope_parameters)
    llama = LlamaModel(llama_config).eval()
    llama.load_state_dict(decoder.model.state_dict())
    x = torch.randn(2, 50, config.hidden_size)
    with torch.no_grad():
        ours = decoder(x)
        theirs = llama(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def _sizes(config):
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim rms_norm_eps max_position_embeddings"
    )
    return {name: getattr(config, name) for name in names.split()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("kv_heads", [4, 2])
@torch.no_grad()
def test_fused_projections_are_those_of_the_layer(kv_heads, dtype, tolerance):
    """Attention's scores and values; and of chosen tokens' queries, those of all tokens."""
    decoder = tiny_model(kv_heads=kv_heads).to(dtype).gazing_model.gaze_decoder
    layer, config, fused = decoder.model.layers[0], decoder.config, decoder.fused()
    positions, generator = torch.arange(3, 14), torch.Generator().manual_seed(0)
    x = torch.randn(11, config.hidden_size, generator=generator).to(dtype)
    rotation = rotations(positions, rope_frequencies(config, x.device))

    normed, attention = layer.input_layernorm(x), layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (p(normed).unflatten(1, (-1, config.head_dim)).transpose(0, 1) for p in projections)
    scale, shared = config.head_dim**-0.5, config.num_attention_heads // kv_heads
    scores = rotate_halves(q[None], rotation)[0] @ repeated(
        rotate_halves(k[None], rotation), shared
    )

    queries, keys_values = fused.layers[0].project(x, fused.rotations(positions))
    keys, values = keys_values.transpose(0, 1).chunk(2)
    found = queries.transpose(0, 1) @ repeated(keys[None], shared)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found, scores * scale, **close)
    torch.testing.assert_close(values, v, **close)

    last = torch.tensor([4, 10])
    some = fused.layers[0].project_last(x, fused.rotations(positions), last)
    torch.testing.assert_close(some[0], queries[last], **close)
    torch.testing.assert_close(some[1], keys_values, **close)


def repeated(keys: torch.Tensor, times: int) -> torch.Tensor:
    """(1, KV, N, D) keys of grouped heads as (H, D, N), for products with queries."""
    return keys[0].repeat_interleave(times, 0).mT
