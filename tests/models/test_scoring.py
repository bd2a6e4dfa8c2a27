"""Scoring against an untouched transformers Llama, and against gazing itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from autogaze.models.autogaze.products import product
from tests.models.test_generation import threshold_of
from tests.models.tiny import tiny_model, tiny_video


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


def test_padding_and_batch_change_no_score():
    model, video = tiny_model(), tiny_video(3, 3)
    threshold = threshold_of(model, video)
    together = model({"video": video}, task_loss_requirement=threshold)
    counts = together.gaze.lengths.tolist()
    assert len(set(map(tuple, counts))) > 1, "the rows must differ for this test to say anything"
    for row in range(3):
        alone = model({"video": video[row : row + 1]}, task_loss_requirement=threshold)
        for key in ("log_action_probs", "task_loss_prediction"):
            ours = together[key][row][~together["if_padded_gazing"][row]]
            torch.testing.assert_close(ours, alone[key][~alone["if_padded_gazing"]])


@pytest.mark.parametrize("threshold", [None, "median"])
def test_scoring_sees_the_states_that_sequential_decoding_proposed_from(threshold):
    model, video = tiny_model(decode_positions="sequential"), tiny_video(1, 3)
    if threshold is not None:
        threshold = threshold_of(model, video)
    decoder, seen = model.gazing_model.gaze_decoder, []
    losses = decoder.predicted_losses
    decoder.predicted_losses = lambda hidden: seen.append(hidden) or losses(hidden)
    generation = model.generate(video, caps=[9, 14, 3], threshold=threshold)
    decoded = torch.cat(seen)
    seen.clear()
    model.score(video, generation)
    torch.testing.assert_close(decoded, seen[0][0], rtol=1e-4, atol=1e-4)


def test_scores_run_only_when_read_and_carry_gradients_in_training():
    model, video = tiny_model(), tiny_video(1, 2)
    calls = []
    inner, model.score = model.score, lambda *a: calls.append(1) or inner(*a)
    output = model({"video": video}, gazing_ratio=0.3)
    assert calls == []
    assert "log_action_probs" in output
    assert output.log_action_probs.shape == output["gazing_pos"].shape
    assert output["task_loss_prediction"] is not None
    assert calls == [1]
    assert "log_action_probs" not in model({"video": video}, gazing_ratio=0.3, generate_only=True)
    model.train()
    output = model({"video": video}, gazing_ratio=0.3)
    output["log_action_probs"].sum().backward()
    assert model.gazing_model.vision_model.temporal_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rows", [1, 10, 200])
def test_packed_products_are_plain_products(rows):
    weight = torch.randn(30, 20)
    x, residual = torch.randn(rows, 20), torch.randn(rows, 30)
    for fixed in (True, False):
        by = product(weight, fixed=fixed)
        torch.testing.assert_close(by(x), x @ weight.T, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by.added_to(residual, x), residual + x @ weight.T)
