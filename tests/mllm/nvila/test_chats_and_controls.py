"""Chat templates, lists of videos for every prompt, and the control `uniform`."""

import numpy as np
import pytest
import torch
from PIL import Image

from autogaze.errors import MLLMError
from autogaze.mllm.nvila.whole_frames import WholeFrames
from tests.clips import make_video
from tests.mllm.nvila.tiny import PYRAMID, make_frames, make_model, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(make_video(tmp_path_factory.mktemp("video") / "clip.mp4", 8, 112, 64, fps=4))


class TestChatTemplate:
    """transformers' `apply_chat_template` calls the processor with what a prompt has not, too."""

    @staticmethod
    def message(*videos, text="word1"):
        parts = [{"type": "video", "video": video} for video in videos]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    @pytest.mark.parametrize("returns", [{}, {"return_tensors": "pt"}], ids=str)
    def test_a_conversation(self, processor, path, returns):
        made = processor.apply_chat_template(
            self.message(path), tokenize=True, return_dict=True, **returns
        )
        same = processor(text=processor.prompt("word1"), videos=path)
        assert made["input_ids"].tolist() == same["input_ids"].tolist()
        assert len(made["gazed_videos"]) == 1
        assert make_model()(**made).logits.isfinite().all()

    def test_several(self, processor, path):
        frames = list(make_frames(5, 56, 112))
        batch = [self.message(path, frames), self.message(text="word2"), self.message(path)]
        made = processor.apply_chat_template(batch, tokenize=True, return_dict=True)
        prompts = ["<vila/video> <vila/video> word1", "word2", "<vila/video> word1"]
        same = processor(text=prompts, videos=[path, frames, path])
        assert made["input_ids"].tolist() == same["input_ids"].tolist()

    def test_images(self, processor, path):
        message = self.message(path)
        message[0]["content"].append({"type": "image", "image": Image.new("RGB", (8, 8))})
        with pytest.raises(MLLMError, match="images"):
            processor.apply_chat_template(message, tokenize=True, return_dict=True)


@pytest.mark.parametrize("name", ["images", "audio"])
def test_what_the_model_does_not_take(processor, path, name):
    for nothing in (None, [], [[]], [[], None]):
        processor(text="<vila/video>", videos=path, **{name: nothing})
    for given in (np.zeros((8, 8, 3)), "i.png", [[np.zeros(4)]], ["a.wav"]):
        with pytest.raises(MLLMError, match=name):
            processor(text="<vila/video>", videos=path, **{name: given})


def test_a_list_of_videos_for_every_prompt(processor, path):
    frames = list(make_frames(5, 56, 112))
    text = ["<vila/video> word1 <vila/video>", "<vila/video>"]
    flat = processor(text=text, videos=[path, frames, path])
    nested = processor(text=text, videos=[[path, frames], (path,)])
    assert nested["input_ids"].tolist() == flat["input_ids"].tolist()
    with pytest.raises(MLLMError, match=r"prompt 0 has 2 placeholders.*1 video"):
        processor(text=text, videos=[[path], [frames, path]])


class TestWholeFrames:
    """The control `uniform`."""

    def test_all_tiles_of_some_frames(self, processor, path):
        settings = {"text": "<vila/video>", "videos": path, "num_video_frames": 18}
        made = processor(**settings, gaze=WholeFrames(0.2))
        dense = processor(**settings, ratio=None)
        (gaze,), (everything,) = made.gazes, dense.gazes
        assert gaze.source == everything.source
        patches = PYRAMID.num_patches
        assert gaze.lengths.unique().tolist() == [0, patches]
        assert (gaze.lengths == patches).all(0).nonzero().flatten().tolist() == [3, 9, 15]
        (video,), (whole,) = made["gazed_videos"], dense["gazed_videos"]
        assert torch.equal(video.thumbnails.pixels, whole.thumbnails.pixels)
        assert torch.equal(
            video.tiles[0].pixels[:patches], whole.tiles[0].pixels[3 * patches : 4 * patches]
        )
        assert made.report.dense_tokens == dense.report.tokens

    def test_tokens(self, processor, path):
        settings = {"text": "<vila/video>", "videos": path, "num_video_frames": 18}
        dense = processor(**settings, ratio=None).report.tokens[0]
        for most in range(11, dense + 3, 4):  # thumbnails take 6, a frame of two tiles 5
            made = processor(**settings, gaze=WholeFrames(max_tokens=most))
            assert most - 5 < made.report.tokens[0] <= most or made.report.tokens[0] == dense
        with pytest.raises(MLLMError, match="max_vision_tokens=10"):
            processor(**settings, gaze=WholeFrames(max_tokens=10))

    @pytest.mark.parametrize(
        "wrong", [(), (0.5, 5), (0,), (1.5,), ("much",), ([0.5],), (None, 0), (None, 2.5)], ids=str
    )
    def test_wrong_budgets(self, wrong):
        with pytest.raises(MLLMError, match="uniform"):
            WholeFrames(*wrong)
