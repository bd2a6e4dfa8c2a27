"""Values of wrong types and sizes that no machine holds: each is refused by name, at once."""

import json
import time

import jaxtyping
import numpy as np
import pytest
import torch

from autogaze.errors import CheckpointError, MLLMError, SelectorError
from autogaze.mllm.nvila import AutoGazeMLLM, AutoGazeMLLMConfig, AutoGazeMLLMProcessor
from tests.mllm.nvila.tiny import LLM, make_config, make_frames, make_model, make_processor


@pytest.fixture(autouse=True)
def unchecked_shapes():
    """Users' shapes and types are not checked by jaxtyping."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def inputs(processor):
    return dict(processor(text=processor.prompt("word1"), videos=make_frames(4)))


@pytest.fixture(scope="module")
def published(processor):
    made = processor(text=processor.prompt("word1"), videos=make_frames(4), published=True)
    return {**made, "video_token_id": processor.video_token_id}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_config", {**LLM, "hidden_size": "wide"}),
        ("text_config", {**LLM, "vocab_size": [64]}),
        ("text_config", {**LLM, "model_type": ["qwen2"]}),
        ("text_config", [LLM]),
        ("vision_config", {"hidden_size": None}),
        ("vision_config", 3),
        ("video_token_id", "2"),
        ("image_token_id", 2.5),
    ],
)
def test_configurations_of_other_types(name, value):
    given = {"text_config": LLM, "vision_config": None, name: value}
    # transformers 4 does not look at the types of a configuration: then building a model does.
    words = None if isinstance(value, dict) else name
    with pytest.raises(MLLMError, match=words):
        AutoGazeMLLM(AutoGazeMLLMConfig(**given))


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config": {"num_hidden_layers": 2 * 10**9}},
        {"text_config": {"vocab_size": 2**40}},
        {"text_config": {"hidden_size": 2**30}},
        {"text_config": {"vocab_size": -1}},
        {"text_config": {"num_key_value_heads": 0}},
        {"vision_config": {"num_hidden_layers": 10**6}},
        {"vision_config": {"num_attention_heads": 5}},
        {"vision_config": {"intermediate_size": 2**45}},
        {"mm_projector_shuffle_num": 2**30},
    ],
    ids=str,
)
def test_sizes_of_which_no_model_can_be_built(changes):
    began = time.monotonic()
    with pytest.raises(MLLMError):
        AutoGazeMLLM(make_config(**changes))
    assert time.monotonic() - began < 30


def test_a_model_that_can_be_built_is_the_same_as_ever():
    """What is built without memory first draws no random numbers."""
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    with torch.device("meta"):
        AutoGazeMLLM(make_config())
    assert torch.rand(1).equal(before)


def test_a_config_that_asks_for_more_than_its_files_hold(tmp_path, model):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["text_config"]["vocab_size"] = 10**9
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AutoGazeMLLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"video_token_id": "x"}, {"text_config": "qwen2"}, []])
def test_files_of_other_values_are_named(change, tmp_path, model, processor):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for name in ("config.json", "processor_config.json"):
        path = tmp_path / name
        wrong = {**json.loads(path.read_text()), **change} if change else change
        path.write_text(json.dumps({**wrong, "gazing_ratio_tile": "much"} if change else wrong))
    with pytest.raises((CheckpointError, MLLMError), match=tmp_path.name):
        AutoGazeMLLM.from_pretrained(tmp_path)
    with pytest.raises((CheckpointError, SelectorError), match=tmp_path.name):
        AutoGazeMLLMProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_ids", None),
        ("input_ids", "text"),
        ("input_ids", [[1, 2]]),
        ("input_ids", torch.zeros(1, 4)),
        ("input_ids", torch.zeros(4, dtype=torch.long)),
        ("input_ids", torch.full((1, 4), 10**6)),
        ("attention_mask", 1),
        ("attention_mask", torch.ones(2, 3)),
        ("attention_mask", torch.ones(1, 3, device="meta")),
        ("video_token_id", "2"),
        ("video_token_id", np.zeros(2)),
        ("video_token_id", 2**70),
        ("gazed_videos", "video.mp4"),
        ("gazed_videos", [None]),
        ("gazed_videos", torch.zeros(3)),
    ],
    ids=str,
)
def test_calls_of_other_types(model, inputs, name, value):
    for call in (model, model.generate, model.prompt_embeddings):
        with pytest.raises(MLLMError):
            call(**{**inputs, name: value})


@pytest.mark.parametrize("value", [None, "text", 3, [None], torch.zeros(2), np.zeros(3)], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "pixel_values_videos_tiles",
        "pixel_values_videos_thumbnails",
        "num_spatial_tiles_each_video",
        "gazing_info",
        "gazing_pos_tiles",
        "num_gazing_each_frame_tiles",
        "if_padded_gazing_thumbnails",
    ],
)
def test_published_dicts_of_other_types(model, published, name, value):
    if name in published:
        wrong = {**published, name: value}
    else:
        wrong = {**published, "gazing_info": {**published["gazing_info"], name: value}}
    with pytest.raises(MLLMError):
        model(**wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("video_token", float("inf")),
        ("video_token", ""),
        ("chat_template", 3),
        ("image_mean", "half"),
        ("image_mean", [0.5, 0.5]),
        ("image_std", [0.5, 0.0, 0.5]),
        ("mm_projector_shuffle_num", 2**40),
        ("num_video_frames", 10**9),
        ("max_tiles_video", 10**6),
        ("max_batch_size_autogaze", None),
    ],
)
def test_arguments_of_a_processor(name, value):
    with pytest.raises(MLLMError, match=name):
        make_processor(**{name: value})


def test_calls_of_a_processor(processor):
    frames = make_frames(2)
    for changes in (
        {"skip_corrupt": "yes"},
        {"published": 1},
        {"generator": 7},
        {"max_tiles_video": 2**30},
        {"num_video_frames": 2**40},
    ):
        error = SelectorError if "generator" in changes else MLLMError
        with pytest.raises(error, match=next(iter(changes))):
            processor(text="<vila/video>", videos=frames, **changes)
    for device in ("moon", 3.5, "meta", None):
        with pytest.raises(MLLMError):
            processor.to(device)
    for conversation in (
        None,
        "text",
        [],
        [3],
        [{"content": "word1"}],
        [[]],
        [{"role": "user", "content": 3}],
    ):
        with pytest.raises(MLLMError):
            processor.apply_chat_template(conversation, tokenize=False)
    with pytest.raises(MLLMError):
        processor.prompt(3)


def test_more_pixels_than_a_chunk_may_have(monkeypatch):
    monkeypatch.setattr("autogaze.mllm.nvila.selection.MAX_CHUNK", 2**16)
    with pytest.raises(MLLMError, match="max_tiles_video"):
        make_processor()(text="<vila/video>", videos=make_frames(4))


def test_whole_numbers_of_other_types():
    """3.0, as some JSON has it, and NumPy's 3 are 3."""
    plain = make_processor(num_video_frames=3, num_video_frames_thumbnail=0)
    for three, none in ((3.0, 0.0), (np.int64(3), np.int32(0))):
        made = make_processor(num_video_frames=three, num_video_frames_thumbnail=none)
        one, other = (each(text="<vila/video>", videos=make_frames()) for each in (plain, made))
        assert one["input_ids"].equal(other["input_ids"])
