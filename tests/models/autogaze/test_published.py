"""Attributes and methods that users' code reads or replaces on the published model."""

import copy

import numpy as np
import pytest
import torch

from autogaze.errors import GeometryError, SelectorError
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

V = 20


def test_settings_are_the_configs():
    model = tiny_model()
    assert model.scales == [32, 64]
    assert model.num_vision_tokens_each_frame == V
    assert model.frame_sampling_rate == 1
    assert model.attn_mode == model.config.attn_mode == "sdpa"
    assert model.max_num_frames == 16
    for name in (
        "gazing_ratio_config",
        "gazing_ratio_each_frame_config",
        "task_loss_requirement_config",
        "has_task_loss_requirement_during_training",
        "has_task_loss_requirement_during_inference",
    ):
        assert getattr(model, name) is getattr(model.config, name)
    model.attn_mode = "flash_attention_2"
    assert model.config.attn_mode == "flash_attention_2"


def test_a_changed_setting_counts():
    model, video = tiny_model(), tiny_video(1, 2)
    model.gazing_ratio_config["fixed"]["gazing_ratio"] = 0.25
    assert model({"video": video}).gaze.lengths.tolist() == [[5, 5]]
    model.gazing_ratio_config = {
        "sample_strategy_during_inference": "fixed",
        "fixed": {"gazing_ratio": 0.1},
    }
    assert model({"video": video}).gaze.lengths.tolist() == [[2, 2]]
    model.has_task_loss_requirement_during_inference = True
    model.task_loss_requirement_config["fixed"]["task_loss_requirement"] = 1e9
    output = model({"video": video})
    assert output.gaze.lengths.tolist() == [[1, 1]]
    assert output["task_loss_requirement"].equal(torch.full((1, 2), 1e9))


def test_what_a_call_leaves_open_is_drawn_by_the_methods():
    model = tiny_model()
    assert model.get_gazing_ratio() == 0.5
    assert model.get_gazing_ratio_each_frame({}, None, 0.5, 3) == 0.5
    assert model.get_task_loss_requirement() is None
    model.gazing_ratio_each_frame_config["sample_strategy_during_inference"] = "dirichlet"
    shares = model.get_gazing_ratio_each_frame(
        {}, None, 0.5, 4, generator=torch.Generator().manual_seed(0)
    )
    assert len(shares) == 4
    assert len(set(shares)) > 1
    model.gazing_ratio_each_frame_config["sample_strategy_during_inference"] = "self"
    assert model.get_gazing_ratio() is None
    assert model.get_gazing_ratio_each_frame({}, None, None, 4) is None
    assert model.get_task_loss_requirement() == 0.7


def test_replaced_methods_are_called():
    model, video = tiny_model(), tiny_video(1, 2)
    model.get_gazing_ratio = lambda sync_across_ranks=True: 0.2
    assert model({"video": video}).gaze.lengths.tolist() == [[4, 4]]
    model.get_gazing_ratio_each_frame = lambda inputs, video, mean, frames, *_: [mean, 0.5]
    assert model({"video": video}).gaze.lengths.tolist() == [[4, 10]]
    model.get_task_loss_requirement = lambda video, **_: torch.tensor([[1e9, -1e9]])
    assert model({"video": video}).gaze.lengths.tolist() == [[1, 10]]
    assert model({"video": video}, gazing_ratio=0.1).gaze.lengths.tolist() == [[2, 2]]


def test_masks_of_positions():
    model, video = tiny_model(), tiny_video(3, 3)
    output = model({"video": video}, task_loss_requirement=threshold_of(model, video))
    assert output["if_padded_gazing"].any()
    masks = model.get_mask_from_gazing_pos(video, output["gazing_pos"], output["if_padded_gazing"])
    assert len(masks) == 2
    for mask, expected in zip(masks, output["gazing_mask"], strict=True):
        assert mask.equal(expected)
        assert mask.dtype == torch.float32


def test_the_call_samples_where_the_published_one_does():
    model, video = tiny_model(), tiny_video(8, 2)
    likeliest = model({"video": video}, gazing_ratio=0.3).gaze.ids
    assert model({"video": video}, gazing_ratio=0.3, temperature=5.0).gaze.ids.equal(likeliest)
    generator = torch.Generator().manual_seed(0)
    asked = model({"video": video}, gazing_ratio=0.3, temperature=5.0, generator=generator).gaze.ids
    assert not asked.equal(likeliest)
    model.train()
    torch.manual_seed(0)
    draws = [model({"video": video}, gazing_ratio=0.3).gaze.ids for _ in range(2)]
    assert not draws[0].equal(draws[1])
    torch.manual_seed(0)
    assert model({"video": video}, gazing_ratio=0.3).gaze.ids.equal(draws[0])
    assert model({"video": video}, gazing_ratio=0.3, temperature=0.0).gaze.ids.equal(likeliest)
    sampled = model.gazing_model.generate(video, 6, do_sample=True, temperature=5.0)
    assert not sampled["gazing_pos"].equal(model.gazing_model.generate(video, 6)["gazing_pos"])


def test_the_network_gazes_alone():
    model, video = tiny_model(), tiny_video(2, 3)
    network = model.gazing_model
    assert network.num_multi_token_pred == 4
    threshold = threshold_of(model, video)
    expected = model({"video": video}, gazing_ratio=0.5, task_loss_requirement=threshold)
    found = network.generate(video, 10, threshold)
    for key in ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame"):
        assert found[key].equal(expected[key])
    assert found["past_key_values"] is None
    past, positions = {}, []
    for index, frame in enumerate(video[:1].split(1, dim=1)):
        step = network.generate(frame, 10, use_cache=True, **past)
        past = {
            "past_key_values": step["past_key_values"],
            "past_inputs_embeds": step["past_input_embeds"],
            "past_attention_mask": step["past_attention_mask"],
            "past_conv_values": step["past_conv_values"],
        }
        positions.append(step["gazing_pos"] + V * index)
    whole = network.generate(video[:1], [10, 10, 10])["gazing_pos"]
    assert torch.cat(positions, 1).equal(whole)


def test_embeddings_are_what_the_decoder_reads():
    model, video = tiny_model(), tiny_video(2, 2)
    network = model.gazing_model
    gaze = model({"video": video}, gazing_ratio=0.3)  # 6 patches a frame
    whole = network.embed(video, gaze)
    assert whole["inputs_embeds"].shape == (2, 2 * (16 + 6), 48)
    assert whole["attention_mask"].equal(torch.ones(2, 44, dtype=torch.long))
    tokens = network.embed(video)["inputs_embeds"]
    assert tokens.shape == (2, 32, 48)
    assert whole["inputs_embeds"][:, :16].equal(tokens[:, :16])
    own = network.gaze_decoder.model.embed_tokens(gaze["gazing_pos"][:, :6])
    assert whole["inputs_embeds"][:, 16:22].equal(own)
    # The first gaze is scored from the state of the last vision token.
    logits, _ = network.gaze_decoder.heads(network.gaze_decoder(whole["inputs_embeds"])[:, 15])
    probs = logits[:, 0].softmax(-1).gather(1, gaze["gazing_pos"][:, :1])
    torch.testing.assert_close((probs + 1e-8).log(), gaze["log_action_probs"][:, :1])
    padded = model({"video": video}, task_loss_requirement=threshold_of(model, video))
    mask = network.embed(video, padded)["attention_mask"]
    assert int((mask == 0).sum()) == int(padded["if_padded_gazing"].sum()) > 0
    first = network.embed(video[:, :1])
    later = network.embed(video[:, 1:], past_conv_values=first["past_conv_values"])
    assert torch.cat([first["inputs_embeds"], later["inputs_embeds"]], 1).allclose(
        tokens, atol=1e-5
    )


@pytest.mark.parametrize("hook", [False, True])
def test_models_are_copied_and_saved_with_what_was_added(tmp_path, hook):
    from autogaze.models.autogaze import AutoGaze
    from autogaze.models.autogaze.hook import FrameRules

    model, video = tiny_model(), tiny_video(1, 2)
    if hook:
        model.gazing_model.hook = FrameRules(budget=3)
    expected = model({"video": video}).gaze.ids
    assert copy.deepcopy(model)({"video": video}).gaze.ids.equal(expected)
    model.save_pretrained(tmp_path)
    loaded = AutoGaze.from_pretrained(tmp_path).eval()
    assert loaded.gazing_model.hook is None  # rules are no part of a checkpoint
    assert loaded({"video": video}, gazing_ratio=0.15).gaze.lengths.tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("caps", "lengths"),
    [
        (np.int64(5), [5, 5]),
        (5.0, [5, 5]),
        (torch.tensor(5), [5, 5]),
        (torch.tensor([5, 6]), [5, 6]),
        (np.array([[5, 6]]), [5, 6]),
        ([[5, 6]], [5, 6]),
    ],
)
def test_caps_come_in_the_forms_of_ratios(caps, lengths):
    generate = tiny_model().gazing_model.generate
    assert generate(tiny_video(1, 2), caps)["num_gazing_each_frame"].tolist() == lengths


@pytest.mark.parametrize(
    "caps", ["5", True, 2.5, [5, None], {}, torch.tensor([1.5, 2.0]), [[5], [5, 5]]]
)
def test_caps_that_are_no_numbers_are_refused(caps):
    with pytest.raises(SelectorError, match="max_gaze_tokens_each_frame"):
        tiny_model().gazing_model.generate(tiny_video(1, 2), caps)


VIDEO = tiny_video(2, 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "video",
    [VIDEO[0], VIDEO[:0], VIDEO.byte(), VIDEO / 0, None, "video", [1], VIDEO.to("meta")],
    ids=["4-D", "empty", "bytes", "infinite", "None", "text", "list", "meta"],
)
def test_the_network_says_what_it_takes(video):
    model = tiny_model()
    gaze = model({"video": VIDEO}, gazing_ratio=0.3)
    calls = (
        lambda: model.gazing_model.generate(video, 3),
        lambda: model.gazing_model.embed(video),
        lambda: model.score(video, gaze),
    )
    for call in calls:
        with pytest.raises(SelectorError, match=r"expected|video"):
            call()


def test_the_network_takes_arrays():
    network = tiny_model().gazing_model
    found, expected = (network.generate(video, 3) for video in (VIDEO.numpy(), VIDEO))
    assert found["gazing_pos"].equal(expected["gazing_pos"])
    found, expected = (network.embed(video) for video in (VIDEO.numpy(), VIDEO))
    assert found["inputs_embeds"].equal(expected["inputs_embeds"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("form", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.int])
def test_masks_of_positions_in_other_forms(form):
    model = tiny_model()
    gaze = model({"video": VIDEO}, gazing_ratio=0.3)
    given = form(gaze["gazing_pos"]), form(gaze["if_padded_gazing"])
    masks = model.get_mask_from_gazing_pos(VIDEO, *given)
    assert all(map(torch.equal, masks, gaze["gazing_mask"]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change",
    [
        lambda ids, padded: (None, padded),
        lambda ids, padded: (ids.float(), padded),
        lambda ids, padded: (ids[0], padded[0]),
        lambda ids, padded: (ids, padded[:1]),
        lambda ids, padded: (ids + 1000, padded),
        lambda ids, padded: (ids - 1000, padded),
    ],
    ids=["None", "floats", "flat", "shape", "large", "negative"],
)
def test_positions_that_have_no_mask_are_refused(change):
    model = tiny_model()
    gaze = model({"video": VIDEO}, gazing_ratio=0.3)
    ids, padded = change(gaze["gazing_pos"], gaze["if_padded_gazing"])
    with pytest.raises(GeometryError, match="got"):
        model.get_mask_from_gazing_pos(VIDEO, ids, padded)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("generator", [3, "seed"])
def test_seeds_are_no_generators(generator):
    model = tiny_model()
    for call in (
        lambda: model({"video": VIDEO}, generator=generator),
        lambda: model.gazing_model.generate(VIDEO, 3, generator=generator),
    ):
        with pytest.raises(SelectorError, match="generator"):
            call()


@pytest.mark.usefixtures("unchecked")
def test_frames_are_counted_and_not_copied():
    video = np.broadcast_to(np.float32(0), (2, 2, 3, 1 << 20, 1 << 20))  # as tensor: 48 TB
    ids = torch.zeros(2, 3, dtype=torch.int64)
    masks = tiny_model().get_mask_from_gazing_pos(video, ids, ids.bool())
    assert [mask.shape for mask in masks] == [(2, 2, 4), (2, 2, 16)]
