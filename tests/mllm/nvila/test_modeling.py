from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from autogaze.errors import MLLMError
from autogaze.mllm.nvila import (
    AutoGazeMLLM,
    AutoGazeMLLMConfig,
    NVILAConfig,
    NVILAForConditionalGeneration,
)
from autogaze.mllm.nvila.frames import cut_frame, plan_grid
from autogaze.mllm.nvila.token_budget import largest_ratio
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel
from tests.mllm.nvila.tiny import (
    LLM,
    TOWER,
    make_config,
    make_frames,
    make_model,
    make_processor,
    sample,
)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def inputs(processor):
    return processor(text="<vila/video> word3 word4", videos=make_frames())


def test_one_tile_at_everything_equals_the_tower():
    """One tile, one scale, one patch per token, no projection: SigLIP's features in their order."""
    model = make_model(
        vision_config={"scales": "56", "attn_type": "frame_independent"}, mm_projector_shuffle_num=1
    )
    model.mm_projector = nn.Linear(32, 32, bias=False)
    nn.init.eye_(model.mm_projector.weight)
    processor = make_processor(
        target_scales=[56],
        max_tiles_video=1,
        gazing_ratio_tile=None,
        mm_projector_shuffle_num=1,
        num_video_frames_thumbnail=1,
    )
    frames = make_frames(4)
    (video,) = processor(text="<vila/video>", videos=frames)["gazed_videos"]
    (tokens,) = model.encode_videos([video])
    grid = plan_grid(128, 64, 56, 1)
    tiles = [cut_frame(frame.pixels, grid) for frame in sample(frames, 4)]
    images = torch.cat(tiles).float() / 127.5 - 1
    with torch.no_grad():
        # The plain tower on whole images, all of whose 16 patches are taken.
        plain = model.vision_tower(
            images, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states[-2]
    assert tokens.shape == (4 * 16 + 16, 32)
    torch.testing.assert_close(tokens[: 4 * 16], plain.flatten(0, 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens[4 * 16 :], plain[0], rtol=0, atol=1e-4)


def test_tokens_are_nine_patches_side_by_side(model, processor, inputs):
    """By hand: the tower on padded tiles, frame first, projected; then thumbnails."""
    published = processor(text="<vila/video> word3 word4", videos=make_frames(), published=True)
    info, expected = published["gazing_info"], []
    for name in ("tiles", "thumbnails"):
        counts = info[f"num_gazing_each_frame_{name}"][0]
        is_padding = info[f"if_padded_gazing_{name}"][0]
        with torch.no_grad():
            states = model.vision_tower(
                published[f"pixel_values_videos_{name}"][0],
                gazing_info={
                    "gazing_pos": info[f"gazing_pos_{name}"][0],
                    "if_padded_gazing": is_padding,
                    "num_gazing_each_frame": counts,
                },
                output_hidden_states=True,
            ).hidden_states[-2]
        starts = counts[0].cumsum(0) - counts[0]
        for frame in range(counts.shape[1]):
            here = slice(int(starts[frame]), int(starts[frame] + counts[0, frame]))
            clips = [state[here][~pad[here]] for state, pad in zip(states, is_padding, strict=True)]
            for patches in [torch.cat(clips)] if name == "tiles" else clips:
                missing = -len(patches) % 9
                filled = torch.cat([patches, patches[-1:].repeat(missing, 1)])
                expected.append(filled.reshape(len(filled) // 9, -1))
    with torch.no_grad():
        by_hand = model.mm_projector(torch.cat(expected))
    (tokens,) = model.encode_videos(inputs["gazed_videos"])
    torch.testing.assert_close(tokens, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["block_causal", "bidirectional", "frame_independent"])
@pytest.mark.parametrize("batch", [1, 3])
def test_published_dict_and_batches_of_the_tower(processor, attention, batch):
    """Ragged gazes: every frame of every clip keeps another number of patches."""
    model = make_model(vision_config={"attn_type": attention}, max_batch_size_siglip=batch)
    options = {"selector": "greedy", "ratio": 0.5, "loss": 0.05}
    text, videos = ["<vila/video> word1"] * 2, [make_frames(seed=1), make_frames(seed=2)]
    own = processor(text=text, videos=videos, **options)
    assert len(set(own["gazed_videos"][0].gaze.lengths.flatten().tolist())) > 1
    published = processor(text=text, videos=videos, published=True, **options)
    with torch.no_grad():
        one = model(**own).logits
        other = model(**published, video_token_id=2).logits
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_published_dict_of_gazes_in_different_metrics(processor):
    """One made before, whose losses nobody measured, and one of a selector that measures them."""
    videos = [make_frames(seed=1), make_frames(seed=2)]
    text = ["<vila/video> word1"] * 2
    made = processor(text=text[:1], videos=videos[:1], selector="centre")["gazed_videos"][0].gaze
    assert made.metric is None
    options = {"gaze": [made, None], "selector": "greedy", "ratio": 0.5}
    own = processor(text=text, videos=videos, **options)
    published = processor(text=text, videos=videos, published=True, **options)
    model = make_model()
    with torch.no_grad():
        one, other = model(**own).logits, model(**published, video_token_id=2).logits
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_features_stand_at_their_placeholders(model, inputs):
    with torch.no_grad():
        embeds = model._embed(inputs["input_ids"], inputs["gazed_videos"], 2)
        (tokens,) = model.encode_videos(inputs["gazed_videos"])
        words = model.get_input_embeddings()(inputs["input_ids"][:, -2:])
    torch.testing.assert_close(embeds[0, :-2], tokens)
    torch.testing.assert_close(embeds[:, -2:], words)


def test_a_batch_equals_its_single_runs(model, processor):
    texts = ["word5 <vila/video> word1 word2 word3", "<vila/video> <vila/video>", "word9 word8"]
    videos = [make_frames(seed=3), make_frames(6, 90, 70, seed=4), make_frames(seed=5)]
    options = {"max_new_tokens": 6, "do_sample": False}
    batch = processor(text=texts, videos=videos)
    with torch.no_grad():
        logits = model(**batch).logits
    answers = model.generate(**batch, **options)
    own = (videos[:1], videos[1:], None)
    for row, (text, given) in enumerate(zip(texts, own, strict=True)):
        single = processor(text=text, videos=given)
        length = single["input_ids"].shape[1]
        with torch.no_grad():
            expected = model(**single).logits[0]
        torch.testing.assert_close(logits[row, -length:], expected, rtol=1e-4, atol=1e-3)
        answer = model.generate(**single, **options)
        assert answer[0].tolist() == answers[row, -length - 6 :].tolist()


def test_generation_returns_prompt_and_answer(model, inputs):
    length = inputs["input_ids"].shape[1]
    for options in (
        {},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"use_cache": False},
    ):
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
        assert out.shape == (options.get("num_return_sequences", 1), length + 4)
        assert out[0, :length].tolist() == inputs["input_ids"][0].tolist()
    greedy = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, length:]
    with torch.no_grad():  # without a cache, token by token
        ids = inputs["input_ids"]
        embeds = model._embed(ids, inputs["gazed_videos"], 2)
        for token in greedy:
            assert model.llm(inputs_embeds=embeds).logits[0, -1].argmax() == token
            embeds = torch.cat([embeds, model.get_input_embeddings()(token[None, None])], dim=1)


def test_the_end_of_the_saved_configuration_ends_generation(processor, inputs, tmp_path):
    model = make_model()
    length = inputs["input_ids"].shape[1]
    first = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, length]
    model.generation_config.eos_token_id = int(first)
    model.generation_config.pad_token_id = 1
    model.save_pretrained(tmp_path)
    loaded = AutoGazeMLLM.from_pretrained(tmp_path)
    out = loaded.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert out.shape[1] == length + 1


@pytest.mark.parametrize(
    "llm",
    [
        {"model_type": "llama", "head_dim": 8},
        {"model_type": "gpt2", "n_positions": 512},
        {"model_type": "qwen2", "tie_word_embeddings": True},
    ],
    ids=lambda llm: llm["model_type"] + "-tied" * ("tie_word_embeddings" in llm),
)
def test_any_llm_saved_and_loaded(llm, inputs, tmp_path):
    values = {**LLM, **llm}
    if llm["model_type"] == "gpt2":
        values = {"model_type": "gpt2", "vocab_size": 64, "n_positions": 512, "n_embd": 32}
        values |= {"n_layer": 2, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    model = make_model(config=AutoGazeMLLMConfig(values, TOWER))
    model.save_pretrained(tmp_path)
    loaded = AutoGazeMLLM.from_pretrained(tmp_path)
    state = model.state_dict()
    assert all(value.equal(state[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected)
    assert loaded.config.text_config.model_type == llm["model_type"]
    out = loaded.generate(**inputs, max_new_tokens=3)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize(
    ("config_class", "model_class"),
    [(AutoGazeMLLMConfig, AutoGazeMLLM), (NVILAConfig, NVILAForConditionalGeneration)],
)
def test_auto_classes(config_class, model_class, inputs, tmp_path):
    own = make_config()
    config = config_class(own.text_config, own.vision_config, video_token_id=2)
    model = make_model(config=config, kind=model_class)
    model.save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path)
    assert type(found) is config_class
    assert found.to_diff_dict()["vision_config"] == config.to_diff_dict()["vision_config"]
    assert found.video_token_id == 2
    for auto in (AutoModel, AutoModelForCausalLM):
        loaded = auto.from_pretrained(tmp_path, max_batch_size_siglip=3)
        assert type(loaded) is model_class
        assert loaded.config.max_batch_size_siglip == 3
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_bfloat16(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    half = AutoGazeMLLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = half(**inputs).logits
        full = model(**inputs).logits
    assert logits.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(logits.float(), full, dim=-1).min() > 0.95
    assert half.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_gradients_reach_every_part(inputs):
    model = make_model()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == 2, -100)
    model(**inputs, labels=labels).loss.backward()
    unused = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    # The last layer and the norm behind it are not read.
    read = [name for name in unused if ".layers.2." not in name and "post_layernorm" not in name]
    # A constant added to all keys changes no softmax.
    assert [name for name in read if not name.endswith("k_proj.bias")] == []


def test_a_gaze_of_another_grid(model, processor):
    other = make_processor(target_scales=[56])
    with pytest.raises(MLLMError, match=r"28\+56 / 14"):
        model(**other(text="<vila/video>", videos=make_frames()))


def test_placeholders_that_are_not_the_videos(model, processor, inputs):
    fewer = {**inputs, "input_ids": inputs["input_ids"][:, 1:], "attention_mask": None}
    with pytest.raises(MLLMError, match="placeholders"):
        model(**fewer)
    with pytest.raises(MLLMError):
        model.generate(**{**inputs, "gazed_videos": inputs["gazed_videos"] * 2})
    with pytest.raises(MLLMError, match="video_token_id"):
        model(**{**inputs, "video_token_id": None})
    with pytest.raises(MLLMError):
        model.generate()
    published = processor(text="<vila/video>", videos=make_frames(), published=True)
    with pytest.raises(MLLMError):
        model(**published, gazed_videos=inputs["gazed_videos"], video_token_id=2)


def test_videos_in_the_order_of_other_rows(model, processor):
    """As many placeholders in all, but features would run from one row into the next."""
    text = ["<vila/video> word1", "<vila/video> word2 <vila/video>"]
    videos = [make_frames(20, *size) for size in ((112, 112), (56, 56), (56, 112))]
    inputs = processor(text=text, videos=videos, ratio=1.0)
    model(**inputs)
    first, second, third = inputs["gazed_videos"]
    tokens = [video.num_tokens(9) for video in (first, second, third)]
    assert len(set(tokens)) == 3
    swapped = {**inputs, "gazed_videos": [second, first, third]}
    with pytest.raises(MLLMError, match=f"row 0 has {tokens[0]} placeholders.* {tokens[1]} "):
        model.generate(**swapped, max_new_tokens=1)
    with pytest.raises(MLLMError, match="row 0"):
        model(**swapped)
    with pytest.raises(MLLMError, match="row 0"):
        model.prompt_embeddings(**swapped)
    published = dict(processor(text=text, videos=videos, ratio=1.0, published=True))
    for name, values in published["gazing_info"].items():
        published["gazing_info"][name] = [values[1], values[0], values[2]]
    for name in set(published) - {"input_ids", "attention_mask", "gazing_info"}:
        published[name] = [published[name][video] for video in (1, 0, 2)]
    with pytest.raises(MLLMError, match="row 0"):
        model(**published, video_token_id=processor.video_token_id)


@pytest.mark.parametrize(("frames", "tiles", "limit"), [(12, 4, 100), (16, 9, 120), (20, 1, 60)])
def test_too_long_for_the_llm_and_the_ratio_that_fits(processor, frames, tiles, limit):
    model = make_model(text_config={"max_position_embeddings": limit})
    video = make_frames(20, 112, 112)
    text = "<vila/video> word1 word2"
    settings = {"num_video_frames": frames, "max_tiles_video": tiles, "selector": "centre"}
    dense = processor(text=text, videos=video, ratio=None, **settings)
    with pytest.raises(MLLMError, match="gazing_ratio_tile=") as error:
        model.generate(**dense, max_new_tokens=5)
    with pytest.raises(MLLMError):
        model(**dense)
    ratio = float(str(error.value).partition("gazing_ratio_tile=")[2].split()[0])
    assert f"--ratio {ratio:g}" in str(error.value)
    fits = processor(text=text, videos=video, ratio=ratio, **settings)
    assert model.generate(**fits, max_new_tokens=5).shape[1] <= limit
    more = processor(text=text, videos=video, ratio=min(1, ratio + 0.06), **settings)
    assert more["input_ids"].shape[1] + 5 > limit


def test_no_ratio_fits(processor):
    model = make_model(text_config={"max_position_embeddings": 20})
    inputs = processor(text="<vila/video>", videos=make_frames(), num_video_frames=20)
    with pytest.raises(MLLMError, match=r"holds 20.*max_vision_tokens=15"):
        model.generate(**inputs, max_new_tokens=5)
    (video,) = inputs["gazed_videos"]
    assert largest_ratio([video], 9, 10) is None
    assert largest_ratio([video], 9, 10**6) == 1
    assert largest_ratio([replace(video, thumbnails=None)], 9, 20) is not None


@pytest.mark.parametrize(
    "values",
    [
        {"max_batch_size_siglip": 0},
        {"mm_projector_shuffle_num": "9"},
        {"mm_projector_hidden_size": 0.5},
        {"text_config": {"model_type": "nothing"}},
        {"text_config": 3},
        {"vision_config": "siglip"},
    ],
)
def test_wrong_configurations(values):
    with pytest.raises(MLLMError):
        AutoGazeMLLMConfig(**values)


def test_the_published_sizes():
    config = AutoGazeMLLMConfig(
        {"hidden_size": 3584}, {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
    )
    assert config.projector_widths == (10368, 3456, 3584)
    assert config.text_config.model_type == "qwen2"
    assert config.max_batch_size_siglip == 16
    assert isinstance(make_model().vision_tower, SiglipVisionModel)
