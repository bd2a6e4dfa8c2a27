"""The padded dict: known keys, scores computed when read, and caches to go on with."""

import copy
import pickle

import pytest
import torch
from accelerate.utils import recursively_apply, send_to_device

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.output import AutoGazeOutput
from tests.models.autogaze.tiny import tiny_model, tiny_video

KNOWN = {
    "gazing_pos",
    "if_padded_gazing",
    "num_gazing_each_frame",
    "gazing_mask",
    "scales",
    "frame_sampling_rate",
    "num_vision_tokens_each_frame",
    "log_action_probs",
    "task_loss_prediction",
    "task_loss_requirement",
    "has_task_loss_requirement",
    "past_key_values",
    "past_input_embeds",
    "past_attention_mask",
    "past_conv_values",
}
PAST = {key for key in KNOWN if key.startswith("past_")}
SCORES = {"log_action_probs", "task_loss_prediction"}


def counted(model):
    """The model, and a list that grows with every pass that scores."""
    calls = []
    inner, model.score = model.score, lambda *a: calls.append(1) or inner(*a)
    return model, calls


@pytest.mark.parametrize(
    ("call", "absent"),
    [
        ({}, PAST | {"task_loss_requirement"}),
        ({"task_loss_requirement": -1e9}, PAST),
        ({"generate_only": True}, PAST | SCORES | {"task_loss_requirement"}),
        ({"use_cache": True}, {"task_loss_requirement"}),
        ({"use_cache": True, "generate_only": True, "task_loss_requirement": 0.5}, SCORES),
        ({"gazing_info": {}}, PAST | {"task_loss_requirement"}),
    ],
)
def test_all_known_keys_are_there_and_absent_ones_are_none(call, absent):
    output = tiny_model()({"video": tiny_video(1, 2)}, gazing_ratio=0.3, **call)
    assert set(output) == set(output.keys()) == set(dict(output)) == KNOWN
    assert list(output) == list(dict(output))
    assert len(output) == 15
    assert all(key in output for key in KNOWN)
    assert "past_gaze" not in output
    for look in (output, dict(output), {**output}, dict(output.items()), output.copy()):
        assert {key for key in KNOWN if look[key] is None} == absent
    assert {key for key in KNOWN if output.get(key) is None} == absent
    assert {key for key in KNOWN if getattr(output, key) is None} == absent
    assert sum(value is None for value in output.values()) == len(absent)
    assert output.get("nothing", 7) == 7
    with pytest.raises(KeyError, match="nothing"):
        output["nothing"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = output.nothing


@pytest.mark.parametrize(
    "read",
    [
        lambda output: output["log_action_probs"],
        lambda output: output.task_loss_prediction,
        lambda output: output.get("task_loss_prediction"),
        dict,
        lambda output: {**output},
        lambda output: list(output.items()),
        lambda output: list(output.values()),
        lambda output: output.pop("log_action_probs"),
        lambda output: output.setdefault("log_action_probs"),
        lambda output: {"other": 1} | output,
        lambda output: output | {"other": 1},
        lambda output: (lambda **values: values)(**output),
    ],
)
def test_scores_run_once_when_read(read):
    model, calls = counted(tiny_model())
    output = model({"video": tiny_video(1, 2)}, gazing_ratio=0.3)
    assert "log_action_probs" in output
    assert list(output)
    assert output.gaze.num_patches == 12
    assert output.copy().keys() == KNOWN
    assert calls == []
    read(output)
    assert calls == [1]
    assert output.task_loss_prediction.shape == output["gazing_pos"].shape
    assert calls == [1]


def test_scores_of_training_carry_gradients():
    model = tiny_model().train()
    output = model({"video": tiny_video(1, 2)}, gazing_ratio=0.3)
    with torch.no_grad():
        probs = output["log_action_probs"]
    probs.sum().backward()
    assert model.gazing_model.vision_model.temporal_conv.weight.grad.abs().sum() > 0


def test_outputs_move_and_stay_lazy():
    model, calls = counted(tiny_model())
    output = model({"video": tiny_video(1, 2)}, gazing_ratio=0.3, task_loss_requirement=-9.0)
    moved = send_to_device(output, "cpu")
    assert calls == []
    assert isinstance(moved, AutoGazeOutput)
    meta = output.to("meta")
    assert meta["gazing_pos"].is_meta
    assert all(mask.is_meta for mask in meta["gazing_mask"])
    assert meta["task_loss_requirement"].is_meta
    assert meta["log_action_probs"].is_meta
    assert calls == [1]
    assert moved["log_action_probs"].equal(output["log_action_probs"])
    assert send_to_device({"gaze": output}, "cpu")["gaze"]["scales"] == [32, 64]


@pytest.mark.parametrize("where", [(torch.float16,), ("cpu", torch.bfloat16)])
def test_types_stay_what_they_are(where):
    output = tiny_model()({"video": tiny_video(1, 2)}, gazing_ratio=0.3)
    with pytest.raises(SelectorError, match=r"keeps its types, got torch\.b?float16"):
        output.to(*where)


@torch.no_grad()
def test_copies_have_the_same_values():
    output = tiny_model()({"video": tiny_video(1, 2)}, gazing_ratio=0.3)
    whole = [output.copy(), pickle.loads(pickle.dumps(output)), copy.deepcopy(output)]
    # What accelerate and data parallelism make of an output.
    by_key = [
        recursively_apply(torch.clone, output),
        AutoGazeOutput((key, output[key]) for key in output),
    ]
    for each in (*whole, *by_key):
        assert list(each) == list(output)
        for key in ("gazing_pos", "log_action_probs", "task_loss_prediction"):
            assert each[key].equal(output[key])
    for each in whole:
        assert each.gaze.ids.equal(output.gaze.ids)
    for each in by_key:
        pyramid = output.gaze.pyramid
        assert Gaze.from_padded(each, pyramid).ids.equal(output.gaze.ids)
        with pytest.raises(SelectorError, match="from_padded"):
            _ = each.gaze


def test_a_value_that_was_set_is_kept():
    model, calls = counted(tiny_model())
    output = model({"video": tiny_video(1, 2)}, gazing_ratio=0.3)
    output["log_action_probs"] = "mine"
    assert output["task_loss_prediction"] is not None
    assert output["log_action_probs"] == "mine"
    assert calls == [1]


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


STREAM = {"gazing_ratio": 0.3, "generate_only": True, "use_cache": True}


@pytest.mark.parametrize(
    "other",
    [
        lambda model: tiny_model(1),
        lambda model: tiny_model(0, inhibition_of_return=0.05),
        lambda model: tiny_model(0, decode_positions="sequential"),
        lambda model: tiny_model(0, K=2),
        lambda model: model.double(),
        lambda model: model.to("meta"),
    ],
    ids=["weights", "inhibition", "positions", "K", "precision", "device"],
)
def test_a_stream_goes_on_in_its_own_model_alone(other):
    model, video = tiny_model(), tiny_video(1, 2)
    past = model({"video": video[:, :1]}, **STREAM)["past_key_values"]
    other = other(model)
    with pytest.raises(SelectorError, match="stream was begun"):
        other({"video": video[:, 1:]}, **STREAM, past_key_values=past)
    with pytest.raises(SelectorError, match="stream was begun"):
        other.gazing_model.generate(video[:, 1:], 5, past_key_values=past)
    with pytest.raises(SelectorError, match="stream was begun"):
        other.generate(video[:, 1:], stream=past.stream)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("what", ["model", "past", "output"])
def test_a_stream_goes_on_in_a_copy_of_its_model(copied, what):
    model, video = tiny_model(), tiny_video(1, 2)
    output = model({"video": video[:, :1]}, **STREAM)
    past, by = output["past_key_values"], model
    if what == "model":
        by = copied(model)
    else:
        past = copied(past) if what == "past" else copied(output)["past_key_values"]
    found = by({"video": video[:, 1:]}, **STREAM, past_key_values=past)["gazing_pos"]
    whole = model({"video": video}, gazing_ratio=0.3).gaze.frames(1, 2)
    assert found[0].tolist() == whole.ids.tolist()


def test_a_stream_compares_a_copys_weights_once(monkeypatch):
    model, video = tiny_model(), tiny_video(1, 3)
    stream, other = model.stream(1, num_frames=3), copy.deepcopy(model)
    parts = [model.generate(video[:, :1], stream=stream)]
    parts.append(other.generate(video[:, 1:2], stream=stream))
    monkeypatch.setattr(type(model.gazing_model), "state_dict", None)  # what comparing reads
    parts.append(other.generate(video[:, 2:], stream=stream))
    whole = model.generate(video).ids.tolist()
    assert torch.cat([part.ids for part in parts], 1).tolist() == whole


def test_parts_may_have_precisions_of_their_own():
    model, video = tiny_model(), tiny_video(1, 2)
    model.gazing_model.gaze_decoder.to(torch.bfloat16)
    past = model({"video": video[:, :1]}, **STREAM)["past_key_values"]
    past = model({"video": video[:, 1:]}, **STREAM, past_key_values=past)["past_key_values"]
    model.gazing_model.gaze_decoder.float()
    with pytest.raises(SelectorError, match=r"bfloat16 on cpu.*moved to torch.float32 on cpu"):
        model({"video": video[:, 1:]}, **STREAM, past_key_values=past)
