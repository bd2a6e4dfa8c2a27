"""Values of other types in calls of a processor and in its checkpoint's files."""

import json

import jaxtyping
import numpy as np
import pytest

from autogaze import GazedProcessor
from autogaze.errors import AutoGazeError, MLLMError
from autogaze.mllm import KeptUnits, UnitGrid
from tests.mllm.tiny_processor import checkpoint

VIDEO = "<|vision_start|><|video_pad|><|vision_end|> What moves ?"
FRAMES = np.zeros((4, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def untyped():
    """As for users: types of arguments are checked in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = checkpoint(tmp_path_factory.mktemp("checkpoint") / "qwen3", "qwen3_vl")
    return GazedProcessor.from_pretrained(folder, selector=None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", "2"),
        ("fps", float("nan")),
        ("frames_indices", "0123"),
        ("frames_indices", [0]),
        ("total_num_frames", 2.5),
        ("duration", [4]),
    ],
)
def test_metadata_of_decoded_frames(processor, name, value):
    with pytest.raises(MLLMError, match=name):
        processor(text=VIDEO, videos=[FRAMES], video_metadata=[{"fps": 2, name: value}])


def test_metadata_of_another_kind(processor):
    with pytest.raises(MLLMError, match="VideoMetadata"):
        processor(text=VIDEO, videos=[FRAMES], video_metadata=["2 fps"])


@pytest.mark.parametrize("name", ["units", "resolution", "return_tensors", "padding_side"])
def test_arrays_where_names_are_taken(processor, name):
    with pytest.raises(MLLMError, match=name):
        processor(text="What", **{name: np.zeros(3)})


@pytest.mark.parametrize(
    "conversation",
    [
        [{"role": "user", "content": [{"type": "text", "text": 3}]}],
        [{"role": "user", "content": [None]}],
        [{"role": 3, "content": "What"}],
        [{"role": "user", "content": 3}],
        ["What"],
        [[{"role": "user", "content": "What"}], "What"],
    ],
    ids=str,
)
def test_conversations_of_other_values(processor, conversation):
    with pytest.raises(MLLMError):
        processor.apply_chat_template(conversation, tokenize=True)


@pytest.mark.parametrize("text", [None, [], ["What", 3], np.array("What"), np.zeros(2)], ids=str)
def test_text_of_other_types(processor, text):
    with pytest.raises(MLLMError, match="text must be"):
        processor(text=text)


def test_text_that_is_no_unicode(processor):
    with pytest.raises(MLLMError, match="cannot read the prompt"):
        processor(text="What \ud800")


@pytest.mark.parametrize("folder", [3, None, b"\0", ["a"], {"a": 1}], ids=str)
def test_folders_of_other_types(processor, folder):
    with pytest.raises(AutoGazeError):
        GazedProcessor.from_pretrained(folder)
    with pytest.raises(AutoGazeError):
        processor.save_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("video_preprocessor_config.json", "patch_size", "4"),
        ("video_preprocessor_config.json", "temporal_patch_size", [2]),
        ("video_preprocessor_config.json", "image_mean", [0.5, 0.5]),
        ("video_preprocessor_config.json", "image_std", [0.5, 0, 0.5]),
        ("video_preprocessor_config.json", "size", {"shortest_edge": "wide"}),
        ("video_preprocessor_config.json", "fps", -2),
        ("preprocessor_config.json", "merge_size", 0),
        ("config.json", "model_type", {"a": 1}),
        ("chat_template.json", "chat_template", 3),
        ("tokenizer_config.json", "eos_token", [3]),
    ],
)
def test_files_of_other_values(tmp_path, file, name, value):
    folder = checkpoint(tmp_path / "qwen3", "qwen3_vl")
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, name: value}))
    with pytest.raises(AutoGazeError):
        GazedProcessor.from_pretrained(folder, selector=None)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "video_preprocessor_config.json"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rescale_factor", 1 / 127.5),
        ("resample", 2),
        ("do_resize", False),
        ("do_rescale", False),
        ("do_normalize", False),
    ],
)
def test_settings_that_qwen_does_not_honour(tmp_path, file, name, value):
    folder = checkpoint(tmp_path / "qwen3", "qwen3_vl")
    values = json.loads((folder / file).read_text())
    usual = {"rescale_factor": 0.00392156862745098, "resample": 3, "do_resize": True}
    (folder / file).write_text(json.dumps({**values, **usual}))
    GazedProcessor.from_pretrained(folder, selector=None)
    (folder / file).write_text(json.dumps({**values, name: value}))
    with pytest.raises(MLLMError, match=name):
        GazedProcessor.from_pretrained(folder, selector=None)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_files_that_are_no_text(tmp_path, file):
    folder = checkpoint(tmp_path / "qwen3", "qwen3_vl")
    (folder / file).write_bytes(b"\xff\xfe\xd0{")
    with pytest.raises(AutoGazeError):
        GazedProcessor.from_pretrained(folder, selector=None)


def test_a_part_of_kept_units_by_whole_numbers_of_other_types():
    kept = KeptUnits.from_lists(UnitGrid(3, ((2, 2),)), [[0, 3], [1], []])
    for none, two in ((0.0, 2.0), (np.int64(0), np.int32(2))):
        assert kept.between(none, two).ids.equal(kept.between(0, 2).ids)
