"""A family of one's own, written with nothing but what docs/mllm.md names, answers as Qwen3-VL does."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
import transformers

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm import MLLMAdapter, ProcessorAdapter
from autogaze.mllm.qwen3_vl import Qwen3VLAdapter
from autogaze.mllm.qwen_processor import Qwen3VLProcessorAdapter
from tests.clips import make_video
from tests.mllm import tiny, tiny_processor

PROMPT = "<|vision_start|><|video_pad|><|vision_end|> What moves ?"


class MyConfig(transformers.Qwen3VLConfig):
    model_type = "my_vl"


class MyVL(transformers.Qwen3VLForConditionalGeneration):
    config_class = MyConfig


class MyAdapter(MLLMAdapter):
    """Only what the page lists, each handed on to Qwen3-VL's."""

    dense_inputs = Qwen3VLAdapter.dense_inputs

    @property
    def _qwen(self) -> Qwen3VLAdapter:
        return Qwen3VLAdapter(self.model)

    @property
    def placeholders(self):
        return self._qwen.placeholders

    def rule(self, visuals):
        return self._qwen.rule(visuals)

    def dense(self, inputs):
        return self._qwen.dense(inputs)

    def cut(self, kind, pixels, kept):
        return self._qwen.cut(kind, pixels, kept)

    def encode(self, visual):
        return self._qwen.encode(visual)


class MyProcessorAdapter(ProcessorAdapter):
    """Likewise of the processor."""

    tokens: ClassVar[Mapping[Any, str]] = Qwen3VLProcessorAdapter.tokens

    def __init__(self, stock):
        super().__init__(stock)
        self._qwen = Qwen3VLProcessorAdapter(stock)

    def sample(self, num_frames, rate, sampling):
        return self._qwen.sample(num_frames, rate, sampling)

    def frame_size(self, kind, height, width, num_frames, native):
        return self._qwen.frame_size(kind, height, width, num_frames, native)

    def form(self, kind):
        return self._qwen.form(kind)

    def expand(self, kind, kept, times):
        return self._qwen.expand(kind, kept, times)

    def prepare_text(self, text):
        return self._qwen.prepare_text(text)

    def rule(self, visuals):
        return self._qwen.rule(visuals)


@pytest.fixture
def models():
    """A tiny Qwen3-VL, and the same weights under a model type of one's own."""
    qwen = tiny.qwen3_vl()
    mine = MyVL(MyConfig(**{**qwen.config.to_dict(), "model_type": "my_vl"})).eval()
    mine.load_state_dict(qwen.state_dict())
    mine.generation_config = qwen.generation_config
    assert mine.config.model_type == "my_vl"
    return qwen, mine


@pytest.fixture
def folders(tmp_path):
    """Files of both processors."""
    qwen = tiny_processor.checkpoint(tmp_path / "qwen", "qwen3_vl")
    mine = tiny_processor.checkpoint(tmp_path / "mine", "qwen3_vl")
    (mine / "config.json").write_text(json.dumps({"model_type": "my_vl"}))
    make_video(tmp_path / "video.mp4")
    return qwen, mine


@torch.no_grad()
def test_it_answers_as_the_family_that_it_hands_on_to(models, folders, own_mllm_registry):
    autogaze.register_mllm("my_vl", MyAdapter, MyProcessorAdapter, "MyVLProcessor")
    assert autogaze.list_mllms()["my_vl"] == "MyAdapter"
    made = []
    for model, folder in zip(models, folders, strict=True):
        processor = autogaze.GazedProcessor.from_pretrained(
            folder, selector="change", ratio=0.2, num_frames=6
        )
        inputs = processor(text=PROMPT, videos=str(folder.parent / "video.mp4"))
        gazed = autogaze.gazed_mllm(model)
        assert type(gazed).__name__ == type(model).__name__
        made.append((inputs, gazed(**inputs).logits, gazed.generate(**inputs, max_new_tokens=4)))
    (qwen, logits, answer), (mine, my_logits, my_answer) = made
    assert torch.equal(mine["input_ids"], qwen["input_ids"])
    assert mine.report.visuals == qwen.report.visuals
    assert mine.report.visuals[0].kept_units < mine.report.visuals[0].dense_units
    assert torch.equal(my_logits, logits)
    assert torch.equal(my_answer, answer)


def test_a_stock_processor_is_known_by_its_class(folders, own_mllm_registry):
    autogaze.register_mllm("my_vl", MyAdapter, MyProcessorAdapter, "MyVLProcessor")

    class MyVLProcessor:
        tokenizer = tiny_processor.tokenizer()

    stock = MyVLProcessor()
    assert isinstance(autogaze.GazedProcessor(stock)._adapter, MyProcessorAdapter)


def test_without_a_registration_the_errors_say_how(models, folders):
    assert "my_vl" not in autogaze.list_mllms()
    with pytest.raises(MLLMError, match="register_mllm"):
        autogaze.gazed_mllm(models[1])
    with pytest.raises(MLLMError, match="processor="):
        autogaze.GazedProcessor.from_pretrained(folders[1])


def test_a_model_may_come_without_its_processor(models, folders, own_mllm_registry):
    autogaze.register_mllm("my_vl", MyAdapter)
    assert autogaze.gazed_mllm(models[1]).config.model_type == "my_vl"
    with pytest.raises(MLLMError, match="processor="):
        autogaze.GazedProcessor.from_pretrained(folders[1])
