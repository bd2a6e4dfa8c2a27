"""Asking a model about a video: answers, tokens, stages."""

import dataclasses

import pytest
import torch

from autogaze.errors import MissingExtraError, MLLMError, VideoError
from autogaze.mllm.answering import VideoMLLM
from autogaze.mllm.viewing import Viewing
from tests.clips import make_video
from tests.decoders import decoded, needs_torchcodec, without_torchcodec
from tests.mllm import tiny
from tests.mllm.nvila import tiny as tiny_nvila
from tests.mllm.tiny_processor import checkpoint

__all__ = ["decoded", "without_torchcodec"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4", 8, 64, 48, fps=4)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    checkpoint(folder, "qwen3_vl")
    tiny.qwen3_vl().save_pretrained(folder)  # its config.json is the model's
    return folder


@pytest.fixture(scope="module")
def nvila(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvila")
    processor = tiny_nvila.make_processor()
    processor.save_pretrained(folder)
    tiny_nvila.make_model(video_token_id=processor.video_token_id).save_pretrained(folder)
    return folder


def test_a_gazed_answer_costs_what_was_kept(qwen, video):
    model = VideoMLLM.load(qwen)
    dense = model.ask(video, "What moves?", Viewing(dense=True, num_frames=6), max_new_tokens=4)
    gazed = model.ask(video, "What moves?", Viewing("greedy", 0.25, num_frames=6), max_new_tokens=4)
    assert (dense.ratio, dense.gaze, dense.num_tokens) == (1.0, None, 4)
    assert dense.prompt_tokens == dense.dense_prompt_tokens == gazed.dense_prompt_tokens
    tubelets, units = 3, dense.dense_units // 3
    assert gazed.kept_units == tubelets * (units // 4)
    assert gazed.prompt_tokens == dense.prompt_tokens - dense.dense_units + gazed.kept_units
    assert gazed.gaze is not None
    assert gazed.gaze.num_frames == 6
    for answer in (dense, gazed):
        seconds = dataclasses.asdict(answer.seconds)
        assert all(seconds[stage] > 0 for stage in ("decode", "encode", "prefill", "generate"))
        assert answer.seconds.total == pytest.approx(sum(seconds.values()))


def test_the_answer_is_that_of_model_and_processor(qwen, video):
    model = VideoMLLM.load(qwen)
    answer = model.ask(video, "What moves?", Viewing("centre", 0.5, num_frames=4), max_new_tokens=5)
    parts = [{"type": "video", "video": video}, {"type": "text", "text": "What moves?"}]
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        selector="centre",
        ratio=0.5,
        num_frames=4,
    )
    ids = model.model.generate(**inputs, max_new_tokens=5)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert answer.text == model.processor.decode(new, skip_special_tokens=True).strip()
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]


def test_a_number_of_tokens_is_kept(qwen, video):
    answer = VideoMLLM.load(qwen).ask(
        video, "What?", Viewing("greedy", max_vision_tokens=7, num_frames=6), max_new_tokens=1
    )
    assert 1 <= answer.kept_units <= 7


@pytest.mark.parametrize("units", ["finest", "union", "scales"])
def test_what_is_seen_is_what_was_kept(qwen, video, units):
    viewing = Viewing("random", 0.25, num_frames=5, units=units)
    answer = VideoMLLM.load(qwen).ask(video, "What?", viewing, max_new_tokens=1)
    seen, kept = answer.seen, answer.kept
    assert (seen.num_frames, answer.tubelet) == (5, 2)  # three tubelets, the last of one frame
    assert seen.num_patches == sum(
        count * frames for count, frames in zip(kept.lengths, (2, 2, 1), strict=True)
    )
    assert seen.source == answer.gaze.source
    # The centres of what is drawn lie in the units that were kept.
    tiles, boxes = seen.source.tiles, seen.rectangles()
    owner = seen.frame_of_patch % 5 // 2
    for tubelet in range(3):
        centres = (boxes[owner == tubelet, :2] + boxes[owner == tubelet, 2:]) / 2
        rows, columns = kept.grid.dense
        row = (centres[:, 1] * rows / tiles.height).long().tolist()
        column = (centres[:, 0] * columns / tiles.width).long().tolist()
        places = kept.grid.dense_places[kept.ids[kept.tubelet == tubelet]].tolist()
        assert set(zip(row, column, strict=True)) == {tuple(place) for place in places}


def test_random_choices_follow_their_generator(qwen, video):
    model, viewing = VideoMLLM.load(qwen), Viewing("random", 0.25, num_frames=4)

    def ids(seed):
        generator = torch.Generator().manual_seed(seed)
        answer = model.ask(video, "What?", viewing, max_new_tokens=1, generator=generator)
        return answer.gaze.ids

    assert torch.equal(ids(1), ids(1))
    assert not torch.equal(ids(1), ids(2))


def test_nvila_answers(nvila, video):
    model = VideoMLLM.load(nvila)
    dense = model.ask(video, "word1 word2", Viewing(dense=True), max_new_tokens=3)
    gazed = model.ask(video, "word1 word2", Viewing(ratio=0.05), max_new_tokens=3)
    own = model.ask(video, "word1 word2", max_new_tokens=3)
    assert dense.ratio == 1.0
    assert dense.prompt_tokens == dense.dense_prompt_tokens == gazed.dense_prompt_tokens
    assert gazed.kept_units <= own.kept_units < dense.kept_units
    assert gazed.prompt_tokens <= own.prompt_tokens < dense.prompt_tokens
    assert (dense.num_tokens, dense.gaze is None, gazed.gaze is None) == (3, True, False)
    assert gazed.seen is gazed.gaze
    few = model.ask(
        video, "word1", Viewing("centre", max_vision_tokens=dense.kept_units - 1), max_new_tokens=1
    )
    assert few.kept_units <= dense.kept_units - 1
    with pytest.raises(MLLMError, match="max_vision_tokens=1 is not enough"):
        model.ask(video, "word1", Viewing(max_vision_tokens=1))


class TestRefusals:
    @pytest.mark.parametrize("units", ["scales", "union"])
    @pytest.mark.parametrize("seen", [{"ratio": 0.1}, {"dense": True}], ids=str)
    def test_units_of_nvila(self, nvila, video, units, seen):
        with pytest.raises(MLLMError, match=units):
            VideoMLLM.load(nvila).ask(video, "word1", Viewing(units=units, **seen))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(MLLMError, match="nowhere"):
            VideoMLLM.load(tmp_path / "nowhere")

    def test_a_model_without_a_processor(self, tmp_path):
        tiny.qwen3_vl().save_pretrained(tmp_path)
        with pytest.raises(MLLMError, match=str(tmp_path)):
            VideoMLLM.load(tmp_path)

    def test_a_family_without_an_adapter(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(MLLMError, match="bert"):
            VideoMLLM.load(tmp_path)

    def test_a_name_that_is_no_folder(self):
        with pytest.raises(MLLMError, match="no such folder") as told:
            VideoMLLM.load("nofolder")
        assert "huggingface.co" not in str(told.value)

    def test_a_name_of_the_hub_s_form(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(MLLMError) as told:
            VideoMLLM.load("no/folder", local_files_only=True)
        first, _, rest = str(told.value).partition("(")
        assert "no such folder here" in first
        assert "hub id" in first
        assert "\n" not in rest

    @pytest.mark.parametrize("family", ["qwen", "nvila"])
    def test_a_question_with_a_placeholder(self, request, video, family):
        model = VideoMLLM.load(request.getfixturevalue(family))
        token = "<|image_pad|>" if family == "qwen" else model.processor.video_token
        with pytest.raises(MLLMError, match="special token") as told:
            model.ask(video, f"What {token} moves?")
        assert token in str(told.value)

    def test_a_checkpoint_without_a_template(self, qwen, video):
        model = VideoMLLM.load(qwen)
        model.processor.stock = dataclasses.replace(model.processor.stock, chat_template=None)
        with pytest.raises(MLLMError, match="no chat template"):
            model.ask(video, "What?")

    def test_a_video_that_is_not_there(self, qwen, tmp_path):
        with pytest.raises(VideoError, match=r"no\.mp4"):
            VideoMLLM.load(qwen).ask(tmp_path / "no.mp4", "What?")


class TestUniform:
    """The control that sees whole tubelets."""

    def test_a_share(self, qwen, video):
        model = VideoMLLM.load(qwen)
        answer = model.ask(video, "What?", Viewing("uniform", 0.5, num_frames=8), max_new_tokens=1)
        assert answer.kept_units == answer.dense_units // 2
        tokens = answer.dense_units // 4 + 1  # pays for one tubelet of four
        answer = model.ask(
            video,
            "What?",
            Viewing("uniform", max_vision_tokens=tokens, num_frames=8),
            max_new_tokens=1,
        )
        assert answer.kept_units <= tokens

    @pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"max_vision_tokens": 14}], ids=str)
    def test_of_nvila(self, nvila, video, budget):
        """Two of four frames; thumbnails stay, and the costs are beside those of everything."""
        model = VideoMLLM.load(nvila)
        dense = model.ask(video, "word1", Viewing(dense=True), max_new_tokens=1)
        answer = model.ask(video, "word1", Viewing("uniform", **budget), max_new_tokens=1)
        assert answer.dense_prompt_tokens == dense.prompt_tokens
        assert answer.dense_units == dense.kept_units == 4 * 3 + 2 * 3  # of 20 patches
        assert answer.kept_units == 2 * 3 + 2 * 3
        assert (answer.gaze.lengths.sum(0) > 0).tolist() == [False, True, False, True]
        assert answer.gaze.ratio == 0.5

    @pytest.mark.parametrize(
        "budget",
        [{}, {"max_vision_tokens": 7}, {"ratio": 0.5, "max_vision_tokens": 20}, {"loss": 0.1}],
        ids=str,
    )
    def test_budgets_that_are_none_of_nvila(self, nvila, video, budget):
        with pytest.raises(MLLMError, match="uniform"):
            VideoMLLM.load(nvila).ask(video, "word1", Viewing("uniform", **budget))

    def test_nvila_of_many_frames(self, nvila, video):
        """Chunks of 16 frames without any patch cost nothing."""
        model, viewing = VideoMLLM.load(nvila), Viewing("uniform", 0.001, num_frames=40)
        answer = model.ask(video, "word1", viewing, max_new_tokens=1)
        assert answer.gaze.lengths.sum(0).nonzero().flatten().tolist() == [20]

    @pytest.mark.parametrize("budget", [{}, {"max_vision_tokens": 1}], ids=str)
    def test_a_budget_that_pays_for_nothing(self, qwen, video, budget):
        with pytest.raises(MLLMError, match="uniform"):
            VideoMLLM.load(qwen).ask(video, "What?", Viewing("uniform", **budget, num_frames=4))

    @pytest.mark.parametrize("ratio", [0.01, 0.2])
    def test_a_small_share_is_one_tubelet(self, qwen, video, ratio):
        answer = VideoMLLM.load(qwen).ask(
            video, "What?", Viewing("uniform", ratio, num_frames=8), max_new_tokens=1
        )
        assert answer.kept_units == answer.dense_units // 4


@needs_torchcodec
@pytest.mark.parametrize("family", ["qwen", "nvila"])
def test_another_decoder_shows_the_same(family, request, video, decoded):
    model = VideoMLLM.load(request.getfixturevalue(family))
    answers = []
    for decoder in ("pyav", "auto", "torchcodec"):
        assert not decoded
        viewing = Viewing("greedy", 0.25, num_frames=4, decoder=decoder)
        answers.append(model.ask(video, "What moves?", viewing, max_new_tokens=3))
    assert len(set(decoded)) == 4
    assert len({answer.text for answer in answers}) == 1
    for answer in answers:
        assert answer.gaze.ids.equal(answers[0].gaze.ids)
        assert answer.gaze.source == answers[0].gaze.source


@pytest.mark.usefixtures("without_torchcodec")
@pytest.mark.parametrize("family", ["qwen", "nvila"])
def test_a_decoder_that_is_not_there(family, request, video):
    model = VideoMLLM.load(request.getfixturevalue(family))
    with pytest.raises(MissingExtraError):
        model.ask(video, "What moves?", Viewing("greedy", 0.25, decoder="torchcodec"))


def test_selectors_choose_where_the_model_runs(qwen, nvila):
    for folder in (qwen, nvila):
        model = VideoMLLM.load(folder, device="cpu")
        assert model.processor.device == model.model.device == torch.device("cpu")
