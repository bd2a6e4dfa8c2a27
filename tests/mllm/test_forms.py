"""Forms in which a GazedProcessor takes metadata, gazes, frames in files, and chat templates."""

import json
import shutil

import pytest
import torch
from PIL import Image

from autogaze import GazedProcessor
from autogaze.errors import MLLMError
from autogaze.video import Video
from tests.clips import make_video
from tests.mllm.tiny_processor import checkpoint

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_video(folder / "wide.mp4", 12, 48, 32, fps=4)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "qwen3", "qwen3_vl")


def pixels_of(path, numbers):
    frames = [frame.pixels for frame in Video(path).frames() if frame.index in numbers]
    return torch.stack([torch.from_numpy(frame).movedim(-1, 0) for frame in frames])


def test_metadata_and_gazes_in_lists_per_prompt(files, folder):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    texts = [VIDEO + VIDEO, "What ?", VIDEO]
    frames = [pixels_of(files / "wide.mp4", numbers) for numbers in ([0, 1], [2, 3], [4, 5])]
    about = [{"fps": rate} for rate in (1.0, 2.0, 4.0)]
    videos = [frames[:2], [], frames[2:]]
    flat = processor(text=texts, videos=videos, video_metadata=about)
    for metadata in ([about[:2], [], about[2:]], (tuple(about[:2]), [], about[2:])):
        gazes = [flat.gazes[:2], [], flat.gazes[2:]]
        nested = processor(text=texts, videos=videos, video_metadata=metadata, gaze=gazes)
        assert torch.equal(nested["input_ids"], flat["input_ids"])
    wrong = [[about[:1], [], about[1:]], [about], [about[:2], about[2:]]]
    for metadata in wrong:
        with pytest.raises(MLLMError, match="2, 0, 1 videos"):
            processor(text=texts, videos=videos, video_metadata=metadata)


def chat(video):
    return [{"role": "user", "content": [{"type": "video", "video": video}]}]


def test_frames_in_files_of_images(files, folder, tmp_path):
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    frames = [Image.fromarray(f.pixels) for f in Video(files / "wide.mp4").frames()][:4]
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for frame, path in zip(frames, paths, strict=True):
        frame.save(path)
    call = {"tokenize": True, "return_dict": True, "video_metadata": [{"fps": 4.0}]}
    expected = processor.apply_chat_template(chat(frames), **call)
    for given in (paths, [str(path) for path in paths], [f"file://{path}" for path in paths]):
        found = processor.apply_chat_template(chat(given), **call)
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["gazed"].visuals[0].pixels, expected["gazed"].visuals[0].pixels)
    frames[0].resize((8, 8)).save(tmp_path / "small.png")
    for last in ("missing.png", "small.png", str(files / "wide.mp4")):
        with pytest.raises(MLLMError):
            processor.apply_chat_template(chat([*paths, tmp_path / last]), **call)
    one = processor.apply_chat_template(chat([files / "wide.mp4"]), tokenize=True)
    assert torch.equal(one, processor.apply_chat_template(chat(files / "wide.mp4"), tokenize=True))


@pytest.mark.parametrize("form", [dict, list])
@pytest.mark.parametrize("usual", [True, False])
def test_several_chat_templates(form, usual, folder, tmp_path):
    named = {**({"default": "usual"} if usual else {}), "tool_use": "tools", "rag-2": "found"}
    value = named if form is dict else [{"name": n, "template": t} for n, t in named.items()]
    source = shutil.copytree(folder, tmp_path / "source")
    (source / "chat_template.json").write_text(json.dumps({"chat_template": value}))
    messages = [{"role": "user", "content": "What ?"}]
    GazedProcessor.from_pretrained(source).save_pretrained(tmp_path / "saved")
    for place in (source, tmp_path / "saved"):
        processor = GazedProcessor.from_pretrained(place)
        assert processor.stock.chat_template == named
        assert processor.apply_chat_template(messages, "tool_use") == "tools"
        assert processor.apply_chat_template(messages, "{{ 1 + 1 }}") == "2"
        if usual:
            assert processor.apply_chat_template(messages) == "usual"
        else:
            with pytest.raises(MLLMError, match=r"tool_use, rag-2|rag-2, tool_use"):
                processor.apply_chat_template(messages)


BAD_TEMPLATES = [
    [{"name": "a"}], [{"template": "b"}], ["text"], [], {"a": 3}, {"../a": "text"},
    [{"name": ["a"], "template": "b"}],
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_TEMPLATES, ids=str)
def test_chat_templates_of_other_forms(value, folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    (source / "chat_template.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(MLLMError, match="chat_template"):
        GazedProcessor.from_pretrained(source)
