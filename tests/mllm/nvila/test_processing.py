import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import autogaze
from autogaze.errors import CheckpointError, GeometryError, MLLMError, SelectorError, VideoError
from autogaze.mllm.nvila import AutoGazeMLLMProcessor, NVILAConfig, NVILAProcessor
from autogaze.selectors.controls import Centre
from tests.clips import make_video
from tests.mllm.nvila.tiny import PYRAMID, make_config, make_frames, make_processor, make_tokenizer

VIDEO = 2


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def test_defaults_are_those_of_the_published_processor():
    plain = AutoGazeMLLMProcessor(make_tokenizer())
    assert plain.num_video_frames == plain.num_video_frames_thumbnail == plain.max_tiles_video == 8
    assert plain.gazing_ratio_tile == plain.gazing_ratio_thumbnail == 0.75
    assert plain.task_loss_requirement_tile == plain.task_loss_requirement_thumbnail == 0.7
    assert plain.target_scales == [56, 112, 196, 392]
    assert plain.target_patch_size == 14
    assert plain.pyramid.num_patches == 1060
    assert plain.mm_projector_shuffle_num == 9
    assert plain.max_batch_size_autogaze == 32
    assert plain.autogaze_model_id == "nvidia/AutoGaze"


def test_a_prompt_is_as_long_as_what_was_kept(processor):
    inputs = processor(text="word5 <vila/video> word7 word8", videos=make_frames())
    (video,) = inputs["gazed_videos"]
    # 4 frames of 2 tiles with 6 patches each, and 2 thumbnails of 20.
    tokens = 4 * math.ceil(2 * 6 / 9) + 2 * math.ceil(20 / 9)
    assert video.num_tokens(9) == tokens
    before = processor.tokenizer("word5")["input_ids"]
    after = processor.tokenizer("word7 word8")["input_ids"]
    assert inputs["input_ids"].tolist() == [before + [VIDEO] * tokens + after]
    assert inputs["attention_mask"].all()
    assert inputs["video_token_id"] == VIDEO
    assert "pixel_values_videos_tiles" not in inputs


def test_prompts_of_any_lengths_are_padded_on_the_left(processor):
    texts = ["word1 <vila/video> word2", "<vila/video> <vila/video>", "word3"]
    videos = [make_frames(seed=seed) for seed in range(3)]
    batch = processor(text=texts, videos=videos)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    counts = [video.num_tokens(9) for video in batch["gazed_videos"]]
    assert mask.sum(1).tolist() == [counts[0] + 2, counts[1] + counts[2], 1]
    assert (ids == VIDEO).sum(1).tolist() == [counts[0], counts[1] + counts[2], 0]
    assert mask.equal(mask.sort(dim=1).values)
    assert (ids[mask == 0] == processor.tokenizer.pad_token_id).all()
    first = processor(text=texts[0], videos=videos[0])
    assert ids[0][mask[0] == 1].tolist() == first["input_ids"][0].tolist()


def test_a_path_frames_and_images_are_the_same_video(processor, tmp_path):
    frames = make_frames(6)
    images = [Image.fromarray(frame) for frame in frames]
    one, other = (processor(text="<vila/video>", videos=v) for v in (frames, images))
    for a, b in zip(one["gazed_videos"][0].parts, other["gazed_videos"][0].parts, strict=True):
        assert a.pixels.equal(b.pixels)
    path = make_video(tmp_path / "video.mp4")
    for given in (path, str(path), [path]):
        assert len(processor(text="<vila/video>", videos=given)["gazed_videos"]) == 1


def test_what_the_prompts_cost(processor, tmp_path):
    path = make_video(tmp_path / "video.mp4", num_frames=8, width=112, height=56)
    texts = ["<vila/video> word1", "word2", "<vila/video> <vila/video>"]
    inputs = processor(text=texts, videos=[path, make_frames(), path])
    report, videos = inputs.report, inputs["gazed_videos"]
    assert report.tokens == tuple(inputs["attention_mask"].sum(1).tolist())
    everything = processor(text=texts, videos=[path, make_frames(), path], ratio=None)
    assert report.dense_tokens == everything.report.tokens == everything.report.dense_tokens
    assert everything.report.ratio == 1
    assert [visual.kept_units for visual in report.visuals] == [v.num_tokens(9) for v in videos]
    assert (report.visuals[0].width, report.visuals[0].height) == (112, 56)
    assert report.visuals[0].num_frames == 4
    seconds = report.seconds
    assert min(seconds.decode, seconds.resize, seconds.select, seconds.cut, seconds.write) > 0
    assert "tokens" in str(report)
    assert [gaze.num_patches for gaze in inputs.gazes] == [v.gaze.num_patches for v in videos]
    assert inputs.gazes[0].source.path == str(path)
    assert inputs.to("cpu").report is report


def test_text_alone(processor):
    inputs = processor(text="word1 word2")
    assert inputs.report.tokens == inputs.report.dense_tokens == (2,)
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == (1, 2)


@pytest.mark.parametrize(
    ("text", "videos"),
    [
        ("word1", 1),
        ("<vila/video> <vila/video>", 1),
        ("<vila/video>", 0),
        ("<vila/video>", 2),
        (["<vila/video>", "word1"], 2),
        (["<vila/video>", "<vila/video> <vila/video>"], 2),
    ],
)
def test_without_or_with_too_many_placeholders(processor, text, videos):
    given = [make_frames(2) for _ in range(videos)] or None
    texts = [text] if isinstance(text, str) else text
    written = sum(text.count("<vila/video>") for text in texts)
    with pytest.raises(MLLMError, match=f"{videos} video.* {written} placeholder"):
        processor(text=text, videos=given)


@pytest.mark.parametrize("text", [None, 3, [], [1], "", ["word1", ""]])
def test_text_of_another_kind(processor, text):
    with pytest.raises(MLLMError):
        processor(text=text)


def test_an_empty_prompt_is_found_before_a_video_is_read(processor, tmp_path):
    with pytest.raises(MLLMError, match="empty"):
        processor(text=["<vila/video>", ""], videos=tmp_path / "none.mp4")


def test_videos_of_another_kind(processor, tmp_path):
    for wrong in (3, {"a": 1}, np.zeros((2, 5)), [make_frames(2), 7]):
        with pytest.raises((MLLMError, VideoError)):
            processor(text="<vila/video>", videos=wrong)
    with pytest.raises(VideoError):
        processor(text="<vila/video>", videos=tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        processor(text="<vila/video>", videos=tmp_path / "text.mp4")


def test_settings_for_one_call(processor):
    frames = make_frames()

    def patches(**options):
        video = processor(text="<vila/video>", videos=frames, **options)["gazed_videos"][0]
        return video.gaze.num_patches

    assert patches() == 8 * 6
    assert patches(ratio=0.1) == 8 * 2
    assert patches(ratio=None) == 8 * 20
    assert patches(num_video_frames=6) == 12 * 6
    assert patches(max_tiles_video=1) == 4 * 6
    assert patches(gazing_ratio_tile=[0.5, 0.1, 0.1, 0.1]) == 2 * (10 + 3 * 2)
    greedy = patches(selector="greedy", ratio=1.0, loss=0.03)
    assert 0 < greedy < 8 * 20
    assert patches(selector=autogaze.load("greedy", pyramid=PYRAMID), loss=0.03) == greedy
    assert patches(selector=Centre(PYRAMID)) == 8 * 6
    assert patches() == 8 * 6


def test_random_draws_follow_the_generator(processor):
    def ids(seed):
        generator = torch.Generator().manual_seed(seed)
        out = processor(
            text="<vila/video>", videos=make_frames(), selector="random", generator=generator
        )
        return out["gazed_videos"][0].gaze.ids

    assert ids(0).equal(ids(0))
    assert not ids(0).equal(ids(1))


def test_a_threshold_for_a_selector_without_one(processor):
    with pytest.raises(MLLMError, match="task_loss_requirement_tile"):
        processor(text="<vila/video>", videos=make_frames(), loss=0.7)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_video_frames": 0}, MLLMError),
        ({"num_video_frames_thumbnail": 5}, MLLMError),
        ({"max_tiles_video": 0.5}, MLLMError),
        ({"gazing_ratio_tile": 2}, SelectorError),
        ({"gazing_ratio_tile": "much"}, SelectorError),
        ({"task_loss_requirement_tile": -1}, SelectorError),
        ({"target_patch_size": 16}, GeometryError),
        ({"target_scales": []}, GeometryError),
        ({"mm_projector_shuffle_num": 0}, MLLMError),
        ({"video_token": "<clip>"}, MLLMError),
    ],
)
def test_wrong_arguments(changes, error):
    with pytest.raises(error):
        make_processor(**changes)


def test_unknown_arguments_are_named(processor, tmp_path):
    with pytest.raises(MLLMError, match="gazing_ratio_tiles"):
        processor(text="<vila/video>", videos=make_frames(), gazing_ratio_tiles=1)
    processor.save_pretrained(tmp_path)
    with pytest.raises(MLLMError, match="num_frames"):
        AutoGazeMLLMProcessor.from_pretrained(tmp_path, num_frames=3)
    with pytest.raises(MLLMError):
        processor(text="word1", return_tensors="np")
    with pytest.raises(MLLMError):
        AutoGazeMLLMProcessor("tokenizer")
    with pytest.raises(MLLMError):
        processor(text="<vila/video>", videos=make_frames(), selector=3)


def test_saved_and_loaded(tmp_path):
    ratios = [0.5] + [0.1] * 15
    made = make_processor(gazing_ratio_tile=ratios, image_mean=(0.4, 0.5, 0.6))
    made.save_pretrained(tmp_path)
    make_config().save_pretrained(tmp_path)
    for cls in (AutoGazeMLLMProcessor, AutoProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert isinstance(loaded, AutoGazeMLLMProcessor)
        assert loaded.to_dict() == made.to_dict()
        inputs = loaded(text="word1 <vila/video>", videos=make_frames())
        expected = made(text="word1 <vila/video>", videos=make_frames())
        assert inputs["input_ids"].equal(expected["input_ids"])
        for one, other in zip(
            inputs["gazed_videos"][0].parts, expected["gazed_videos"][0].parts, strict=True
        ):
            assert one.pixels.equal(other.pixels)
        changed = cls.from_pretrained(tmp_path, num_video_frames=7, selector=Centre(PYRAMID))
        assert changed.num_video_frames == 7
        assert changed.gazing_ratio_tile == ratios


def test_files_of_the_published_checkpoint(tmp_path, caplog):
    """Its patch size is stored wrongly, and pixel statistics stand in another file."""
    make_tokenizer().save_pretrained(tmp_path)
    stored = {
        "processor_class": "NVILAProcessor",
        "auto_map": {"AutoProcessor": "processing_nvila.NVILAProcessor"},
        "num_video_frames": 8,
        "gazing_ratio_tile": 0.75,
        "target_scales": [56, 112, 196, 392],
        "target_patch_size": 16,
        "autogaze_model_id": "nvidia/AutoGaze",
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(stored))
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3, "size": {"height": 392}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    config = make_config()
    NVILAConfig(config.text_config, config.vision_config).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, num_video_frames=16)
    assert type(loaded) is NVILAProcessor
    assert loaded.num_video_frames == 16
    assert loaded.target_patch_size == 14
    assert "16" in caplog.text
    assert loaded.image_mean == (0.1, 0.2, 0.3)


def test_folders_without_a_processor(tmp_path):
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        AutoGazeMLLMProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer"):
        AutoGazeMLLMProcessor.from_pretrained(tmp_path)
    for wrong in ("[1]", "{"):
        (tmp_path / "processor_config.json").write_text(wrong)
        with pytest.raises(CheckpointError):
            AutoGazeMLLMProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        AutoGazeMLLMProcessor.from_pretrained(tmp_path / "none")


def test_messages_become_the_published_prompt(processor):
    content = [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "word1 word2"}]
    messages = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, tokenize=False)
    assert prompt == processor.prompt("word1 word2") == "<vila/video>\n\nword1 word2"


def test_answers_are_decoded(processor):
    ids = processor(text=["word1 word2", "word3"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["word1 word2", "word3"]
    assert processor.decode(ids[0]) == "word1 word2"


def test_moving_the_selector(processor):
    assert make_processor().to("cpu").device == torch.device("cpu")
    moved = make_processor(selector=Centre(PYRAMID)).to("cpu")
    assert moved(text="<vila/video>", videos=make_frames())["gazed_videos"]
