"""A question is answered twice, can be stopped between two layers, and asked again after."""

import pytest

import autogaze
from autogaze.demo.ask import answer_card, ask_both
from autogaze.demo.work import Cancelled, Settings, Stop
from autogaze.mllm.answering import VideoMLLM
from tests.clips import make_video
from tests.mllm import tiny, tiny_processor


class StopAfter(Stop):
    """Stops at the n-th time that it is checked."""

    def __init__(self, checks):
        super().__init__()
        self.left = checks

    def check(self):
        self.left -= 1
        if self.left == 0:
            self.set()
        super().check()


def test_a_stopped_question_can_be_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("autogaze.demo.ask.MAX_NEW_TOKENS", 16)
    tiny_processor.checkpoint(tmp_path, "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(tmp_path)
    model = VideoMLLM.load(tmp_path)
    video = make_video(tmp_path / "clip.mp4", 8, 64, 48, fps=4)
    said = []

    def ask(stop):
        selector = autogaze.load("greedy")
        return ask_both(
            model, video, "What moves?", Settings(ratio=0.25), selector, stop, said.append
        )

    counting = StopAfter(10**9)
    before = ask(counting)
    checks = 10**9 - counting.left
    assert said == ["gazed", "dense"]
    for share in (0.0, 0.3, 0.6, 0.9):
        with pytest.raises(Cancelled):
            ask(StopAfter(1 + int(share * checks)))
    after = ask(Stop())
    assert (after.gazed.text, after.dense.text) == (before.gazed.text, before.dense.text)
    assert after.gazed.prompt_tokens < after.dense.prompt_tokens
    card = answer_card(after.gazed, "<Gazed>")
    assert "&lt;Gazed&gt;" in card
    assert not any(part._forward_pre_hooks for part in model.model.modules())
