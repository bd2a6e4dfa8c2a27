"""Which frames are taken where nobody says so or more are asked for, and prompts that are too long."""

from itertools import pairwise

import pytest

from autogaze.errors import MLLMError
from autogaze.mllm.answering import VideoMLLM
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.processor_adapter import Sampling
from autogaze.mllm.sampled_video import FrameSource
from autogaze.mllm.viewing import FRAMES, Viewing
from tests.clips import make_video
from tests.mllm import tiny, tiny_frame_processors, tiny_frames
from tests.mllm.tiny_processor import checkpoint

FAMILIES = ("llava_onevision", "smolvlm", "internvl", "qwen3_vl", "qwen2_5_vl")
SEQUENTIAL = FAMILIES[:3]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every family, loaded once; SmolVLM samples a frame per second."""
    loaded = {}
    for name in FAMILIES:
        folder = tmp_path_factory.mktemp(name)
        if name in SEQUENTIAL:
            tiny_frame_processors.checkpoint(folder, name)
            getattr(tiny_frames, name)().save_pretrained(folder)
        else:
            checkpoint(folder, name)
            getattr(tiny, name)().save_pretrained(folder)
        loaded[name] = VideoMLLM.load(folder, device="cpu")
    return loaded


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {n: make_video(folder / f"{n}.mp4", n, 48, 48, fps=10) for n in (6, FRAMES + 8)}


def seen(model, video, **options):
    """Numbers of the frames that the model got."""
    viewing = Viewing("centre", 0.5, **options)
    answer = model.ask(video, "what", viewing, max_new_tokens=1)
    return list(answer.gaze.source.frame_indices)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_frames_than_there_are_take_all(models, clips, family):
    assert seen(models[family], clips[6], num_frames=50) == list(range(6))


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_frames_stand_at_even_distances(models, clips, family):
    numbers = seen(models[family], clips[FRAMES + 8], num_frames=8)
    assert len(numbers) == 8
    steps = [after - before for before, after in pairwise(numbers)]
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("family", ["llava_onevision", "internvl"])
def test_families_that_would_take_all_frames_take_some(models, clips, family, monkeypatch):
    text = models[family].model.config.get_text_config()
    monkeypatch.setattr(text, "max_position_embeddings", 4096)
    assert len(seen(models[family], clips[FRAMES + 8])) == FRAMES
    assert seen(models[family], clips[6]) == list(range(6))


def test_settings_of_a_processor_come_first(models, clips, monkeypatch):
    model = models["internvl"]
    monkeypatch.setattr(model.processor, "settings", GazeSettings(num_frames=3))
    assert len(seen(model, clips[6])) == 3


def test_num_frames_of_the_processor_is_as_in_the_stock_one(models):
    """A number of frames that the call asks for is still an error, or bounded by SmolVLM's rate."""
    for family in FAMILIES[:4]:
        sample = models[family].processor._adapter.sample
        if family == "smolvlm":
            assert len(sample(20, 10.0, Sampling(num_frames=50))) == 2
        else:
            with pytest.raises(MLLMError, match=r"50 frames.*max_frames"):
                sample(20, 10.0, Sampling(num_frames=50))


def test_one_way_to_say_how_many():
    for other in ({"num_frames": 2}, {"fps": 1.0}):
        with pytest.raises(MLLMError, match="max_frames"):
            GazeSettings(max_frames=2, **other)
    with pytest.raises(MLLMError, match="max_frames"):
        GazeSettings(max_frames=0)
    assert GazeSettings(num_frames=2).updated({"max_frames": 3}).num_frames is None


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_a_context_that_is_too_short_is_told_before_decoding(models, clips, family, monkeypatch):
    model = models[family]
    text = model.model.config.get_text_config()
    video = clips[FRAMES + 8]
    fitting = model.ask(video, "what", Viewing(dense=True, num_frames=4), max_new_tokens=1)
    monkeypatch.setattr(text, "max_position_embeddings", fitting.dense_prompt_tokens + 3)

    def read(*_, **__):
        raise AssertionError("a frame is decoded")

    with monkeypatch.context() as patched:
        patched.setattr(FrameSource, "read", read)
        with pytest.raises(MLLMError, match="fit") as told:
            model.ask(video, "what", Viewing("centre", 0.1, num_frames=16), max_new_tokens=3)
    message = str(told.value)
    assert str(text.max_position_embeddings) in message
    assert "resolution" not in message
    # What is said to fit fits.
    fits = int(message.split(" of these 16 fit")[0].split("about ")[-1])
    assert 1 <= fits <= 4
    assert seen(model, video, num_frames=fits)
    answer = model.ask(video, "what", Viewing(dense=True, num_frames=fits), max_new_tokens=3)
    assert answer.dense_prompt_tokens <= text.max_position_embeddings


def test_the_model_s_own_check_says_it_too(models, clips, monkeypatch):
    for family in ("internvl", "qwen3_vl"):
        model = models[family]
        parts = [{"type": "video", "video": clips[6]}, {"type": "text", "text": "what"}]
        inputs = model.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            tokenize=True,
            return_dict=True,
            max_frames=6,
            add_generation_prompt=True,
        )
        text = model.model.config.get_text_config()
        length = int(inputs["gazed"].prompt.next_position.max())
        monkeypatch.setattr(text, "max_position_embeddings", length)
        with pytest.raises(MLLMError, match="take fewer frames") as told:
            model.model.generate(**inputs, max_new_tokens=1)
        assert ("resolution" in str(told.value)) == (family == "qwen3_vl")
        assert ("5 of these 6 fit" in str(told.value)) == (family == "internvl")
