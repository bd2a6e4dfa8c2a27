"""The gaze decoder against an untouched transformers Llama, and fused against plain."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

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
