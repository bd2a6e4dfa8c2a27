"""The padded dict: scores computed when read, and caches to go on with."""

import pytest

from autogaze.errors import SelectorError
from tests.models.autogaze.tiny import tiny_model, tiny_video


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


def test_a_used_past_is_refused():
    model, video = tiny_model(), tiny_video(1, 3)
    call = {"gazing_ratio": 0.5, "generate_only": True, "use_cache": True}
    first = model({"video": video[:, :1]}, **call)
    model({"video": video[:, 1:2]}, past_key_values=first["past_key_values"], **call)
    with pytest.raises(SelectorError, match=r"frame 1.*frame 2"):
        model({"video": video[:, 1:2]}, past_key_values=first["past_key_values"], **call)
    with pytest.raises(SelectorError, match="past_key_values"):
        model({"video": video}, past_conv_values=first["past_conv_values"])
    with pytest.raises(SelectorError, match=r"1 clips.*2"):
        model(
            {"video": tiny_video(2, 1)},
            past_key_values=model({"video": video}, **call)["past_key_values"],
            **call,
        )
