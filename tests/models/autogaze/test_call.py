"""The known call: ratios, thresholds and gazes in all the forms that users give them."""

import warnings
from collections import UserDict

import numpy as np
import pytest
import torch
from transformers import BatchFeature

from autogaze.errors import GeometryError, SelectorError
from autogaze.models.autogaze.published import read_gazing_info
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

V = 20


@pytest.mark.parametrize(
    ("ratio", "lengths"),
    [
        (0, [1, 1]),
        (0.0, [1, 1]),
        (1, [V, V]),
        (1.7, [V, V]),
        ([0, 2.5], [1, V]),
        ((0.5, 0.25), [10, 5]),
        (torch.tensor(0.25), [5, 5]),
        (torch.tensor([0.0, 0.5]), [1, 10]),
        (np.float32(0.5), [10, 10]),
        (np.array([0.5, 1.5]), [10, V]),
        ([torch.tensor(0.25), np.float16(0.5)], [5, 10]),
    ],
)
def test_every_frame_takes_a_patch_at_least_and_all_at_most(ratio, lengths):
    output = tiny_model()({"video": tiny_video(2, 2)}, gazing_ratio=ratio)
    assert output.gaze.lengths.tolist() == [lengths] * 2
    assert output["num_gazing_each_frame"].tolist() == lengths


def test_a_threshold_is_returned_for_every_clip_and_frame():
    model, video = tiny_model(), tiny_video(3, 2)
    for requirement in (-1.5, torch.tensor(-1.5), np.float64(-1.5)):
        output = model({"video": video}, task_loss_requirement=requirement)
        assert output["task_loss_requirement"].equal(torch.full((3, 2), -1.5))
        assert output["has_task_loss_requirement"] is True
    output = model({"video": video}, gazing_ratio=0.5)
    assert output["task_loss_requirement"] is None
    assert output["has_task_loss_requirement"] is False
    call = {"target_scales": [56, 112], "target_patch_size": 14}
    adapted = model({"video": torch.zeros(3, 2, 3, 112, 112)}, task_loss_requirement=0.5, **call)
    assert adapted["task_loss_requirement"].shape == (3, 2)


def test_every_clip_and_frame_has_its_own_threshold():
    model, video = tiny_model(), tiny_video(2, 2)
    never = -1e9
    some = threshold_of(model, video)
    table = torch.tensor([[some, never], [never, 1e9]])
    output = model({"video": video}, task_loss_requirement=table)
    assert output["task_loss_requirement"].equal(table)
    lengths = output.gaze.lengths.tolist()
    assert lengths[0][1] == lengths[1][0] == V
    assert lengths[1][1] == 1
    alone = model({"video": video[:1]}, task_loss_requirement=some).gaze
    assert lengths[0][0] == int(alone.lengths[0, 0]) < V
    # A table of one number is that number.
    same = model({"video": video}, task_loss_requirement=torch.full((2, 2), some)).gaze
    number = model({"video": video}, task_loss_requirement=some).gaze
    assert same.ids.equal(number.ids)
    assert same.lengths.equal(number.lengths)
    # One row or column is every row's or column's.
    rows = model({"video": video}, task_loss_requirement=[[some], [never]]).gaze
    assert rows.lengths[1].tolist() == [V, V]
    frames = model({"video": video}, task_loss_requirement=[[1e9, never]]).gaze
    assert frames.lengths.tolist() == [[1, V]] * 2


def test_thresholds_of_clips_reach_their_tiles():
    model = tiny_model()
    video = torch.nn.functional.interpolate(tiny_video(2, 1)[:, 0], (112, 112))[:, None]
    call = {"target_scales": [56, 112], "target_patch_size": 14}
    both = model({"video": video}, task_loss_requirement=[[-1e9], [1e9]], **call).gaze
    first = model({"video": video[:1]}, task_loss_requirement=-1e9, **call).gaze
    last = model({"video": video[1:]}, task_loss_requirement=1e9, **call).gaze
    assert both[0].ids.equal(first.ids)
    assert both[1].ids.equal(last.ids)
    assert len(last.ids) < len(first.ids)


def test_thresholds_in_micro_batches_streams_and_fixed_shapes_are_the_same():
    model, video = tiny_model(), tiny_video(3, 3)
    some = threshold_of(model, video)
    table = torch.tensor([[some, -1e9, 1e9], [1e9, some, some], [-1e9, 1e9, some]])
    expected = model({"video": video}, task_loss_requirement=table).gaze
    model.memory_budget = 1
    assert model({"video": video}, task_loss_requirement=table).gaze.ids.equal(expected.ids)
    model.memory_budget, model.static_shapes = 1 << 30, True
    assert model({"video": video}, task_loss_requirement=table).gaze.ids.equal(expected.ids)
    model.static_shapes = False
    past, ids = {}, []
    for index in range(3):
        frame, each = video[:, index : index + 1], table[:, index : index + 1]
        call = {"task_loss_requirement": each, "generate_only": True, "use_cache": True}
        output = model({"video": frame}, **call, **past)
        past = {"past_key_values": output["past_key_values"]}
        ids.append(output.gaze)
    assert type(expected).cat_frames(ids).ids.equal(expected.ids)


def test_arguments_by_position():
    model, video = tiny_model(), tiny_video(1, 2)
    named = model({"video": video}, gazing_ratio=0.5, task_loss_requirement=-1.5)
    placed = model({"video": video}, None, None, None, 1, 0.5, -1.5)
    assert placed["gazing_pos"].equal(named["gazing_pos"])
    assert placed["if_padded_gazing"].equal(named["if_padded_gazing"])
    big = torch.zeros(1, 1, 3, 112, 112)
    adapted = model(big, [56, 112], 14, None, 1, 0.5, None, True, True)
    assert adapted["gazing_mask"][1].shape == (1, 1, 64)
    assert adapted["past_key_values"] is not None
    assert adapted["log_action_probs"] is None


def test_no_gazes_to_score_means_gazing():
    model, video = tiny_model(), tiny_video(1, 2)
    expected = model({"video": video}, gazing_ratio=0.3)["gazing_pos"]
    for nothing in (None, {}):
        assert model({"video": video}, None, None, nothing, 1, 0.3)["gazing_pos"].equal(expected)


def test_given_gazes_are_scored_and_completed():
    model, video = tiny_model(), tiny_video(2, 2)
    gaze = model({"video": video}, gazing_ratio=0.3)
    names = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")
    for info in (gaze, {name: gaze[name] for name in names}, dict(gaze)):
        scored = model({"video": video}, gazing_info=info)
        assert len(scored) == 15
        for key in (*names, "log_action_probs", "task_loss_prediction"):
            assert scored[key].equal(gaze[key]), key
        assert all(a.equal(b) for a, b in zip(scored.gazing_mask, gaze.gazing_mask, strict=True))
        assert scored["scales"] == [32, 64]
    # Another video: scores are of it, not those that came along.
    other = model({"video": tiny_video(2, 2, seed=5)}, gazing_info=gaze)
    assert not other["log_action_probs"].equal(gaze["log_action_probs"])


@pytest.mark.parametrize("kind", [BatchFeature, UserDict])
def test_inputs_and_gazes_come_in_any_mapping(kind):
    model, video = tiny_model(), tiny_video(2, 2)
    gaze = model({"video": video}, gazing_ratio=0.3)
    assert model(kind({"video": video}), gazing_ratio=0.3)["gazing_pos"].equal(gaze["gazing_pos"])
    scored = model({"video": video}, gazing_info=kind(dict(gaze)))
    assert scored["log_action_probs"].equal(gaze["log_action_probs"])


NAMES = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")


def test_given_gazes_may_be_arrays_lists_and_counted_for_every_clip():
    model, video = tiny_model(), tiny_video(2, 2)
    gaze = model({"video": video}, task_loss_requirement=threshold_of(model, video))
    info = {name: gaze[name] for name in NAMES}
    forms = [
        {name: value.numpy() for name, value in info.items()},
        {name: value.tolist() for name, value in info.items()},
        {**info, "num_gazing_each_frame": info["num_gazing_each_frame"].expand(2, -1)},
        {**info, "num_gazing_each_frame": [float(n) for n in info["num_gazing_each_frame"]]},
    ]
    for form in forms:
        scored = model({"video": video}, gazing_info=form)
        assert scored["log_action_probs"].equal(gaze["log_action_probs"])
        embedded = model.gazing_model.embed(video, form)["inputs_embeds"]
        assert embedded.equal(model.gazing_model.embed(video, info)["inputs_embeds"])


def test_arrays_and_lists_of_gazes_lie_on_the_videos_device():
    info = {
        "gazing_pos": [[0, 1, 20, 21]],
        "if_padded_gazing": np.zeros((1, 4), bool),
        "num_gazing_each_frame": [[2, 2]],
    }
    read = read_gazing_info(info, torch.device("meta"))
    assert {name: read[name].device.type for name in NAMES} == dict.fromkeys(NAMES, "meta")
    assert read["num_gazing_each_frame"].shape == (2,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_gazing_each_frame": [6.5, 5.5]}, "num_gazing_each_frame must be"),
        ({"num_gazing_each_frame": [float("inf"), 6.0]}, "num_gazing_each_frame must be"),
        ({"gazing_pos": torch.full((1, 12), 2000)}, r"ids must lie in \[0, 20\)"),
        ({"gazing_pos": torch.zeros(1, 12, dtype=torch.long)}, "ids"),
        ({"gazing_pos": torch.zeros(1, 12)}, "integer tensors"),
        ({"num_gazing_each_frame": torch.tensor([6])}, "6 slots in all"),
        ({"num_gazing_each_frame": torch.tensor([[6, 6], [4, 8]])}, "num_gazing_each_frame"),
        ({"num_gazing_each_frame": None}, "num_gazing_each_frame"),
    ],
)
def test_given_gazes_that_make_no_sense_are_refused(change, words):
    model, video = tiny_model(), tiny_video(1, 2)
    gaze = model({"video": video}, gazing_ratio=0.3)
    info = {**{name: gaze[name] for name in NAMES}, **change}
    with pytest.raises(GeometryError, match=words):
        model({"video": video}, gazing_info=info)
    with pytest.raises(GeometryError, match=words):
        model.score(video, info)


@pytest.mark.parametrize("temperature", [-1, None, "1", float("inf"), float("nan"), True])
def test_temperatures_that_make_no_sense_are_refused(temperature):
    model, video = tiny_model().train(), tiny_video(1, 1)
    with pytest.raises(SelectorError, match="temperature"):
        model({"video": video}, temperature=temperature, gazing_ratio=0.3)
    with pytest.raises(SelectorError, match="temperature"):
        model.gazing_model.generate(video, 3, do_sample=True, temperature=temperature)


def test_numbers_may_be_tensors_and_frames_may_require_gradients():
    model, video = tiny_model().train(), tiny_video(1, 2)
    expected, same = (
        model(
            {"video": frames},
            temperature=temperature,
            gazing_ratio=0.3,
            generator=torch.Generator().manual_seed(0),
        )
        for frames, temperature in (
            (video, 2),
            (video.clone().requires_grad_(), torch.tensor(2.0)),
        )
    )
    assert same["gazing_pos"].equal(expected["gazing_pos"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model({"video": video.clone().requires_grad_()}, gazing_ratio=0.3)


def test_scales_stay_the_models_own():
    model = tiny_model()
    assert model({"video": tiny_video(1, 1)}, gazing_ratio=0.5)["scales"] == [32, 64]
    call = {"target_scales": [56, 112], "target_patch_size": 14, "gazing_ratio": 0.5}
    adapted = model({"video": torch.zeros(1, 1, 3, 112, 112)}, **call)
    assert adapted["scales"] == [32, 64]
    assert adapted.gaze.pyramid.scales == (56, 112)
    assert adapted["num_vision_tokens_each_frame"] == 16 + 64
