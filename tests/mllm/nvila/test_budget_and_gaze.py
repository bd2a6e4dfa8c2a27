"""`max_vision_tokens`, gazes that were made before, and contexts that are too short."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import autogaze
from autogaze import PatchPyramid
from autogaze.errors import AutoGazeError, MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.nvila.gazed_video import GazedClips, GazedVideo
from autogaze.mllm.nvila.token_budget import fit
from autogaze.selectors.controls import Centre
from tests.clips import make_video
from tests.mllm.nvila.tiny import PYRAMID, make_frames, make_model, make_processor

PROMPT = "<vila/video> word1"


@pytest.fixture(scope="module")
def processor():
    return make_processor(autogaze_model_id="greedy", num_video_frames_thumbnail=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return make_video(folder / "a.mp4", num_frames=40, width=112, height=56)


def tokens(inputs):
    return [visual.kept_units for visual in inputs.report.visuals]


@pytest.mark.parametrize("name", ["greedy", "centre", "change", "run-length", "random"])
def test_never_more_tokens_than_asked_for(processor, path, name):
    for most in (1, 3, 7, 20):
        inputs = processor(
            text=PROMPT, videos=path, num_video_frames=20, max_vision_tokens=most, selector=name
        )
        assert tokens(inputs) == [int((inputs["input_ids"] == processor.video_token_id).sum())]
        assert 1 <= tokens(inputs)[0] <= most
        if name in ("centre", "random"):  # they take whatever they may
            assert tokens(inputs) == [most]


def test_a_budget_that_is_larger_than_what_was_chosen(processor):
    plain = processor(text=PROMPT, videos=make_frames(), ratio=0.3)
    roomy = processor(text=PROMPT, videos=make_frames(), ratio=0.3, max_vision_tokens=10**6)
    # With a number of tokens the selector stops by its loss too.
    assert tokens(roomy)[0] <= tokens(plain)[0]
    centre = [
        processor(text=PROMPT, videos=make_frames(), ratio=0.3, selector="centre", **options)
        for options in ({}, {"max_vision_tokens": 10**6})
    ]
    assert centre[0].gazes[0].ids.equal(centre[1].gazes[0].ids)


def test_the_patches_that_were_chosen_first_are_kept(processor):
    options = {"text": PROMPT, "videos": make_frames(), "ratio": 1.0, "loss": None}
    whole = processor(**options, selector=Centre(PYRAMID), max_vision_tokens=10**6)
    some = processor(**options, selector=Centre(PYRAMID), max_vision_tokens=8)
    before, after = whole.gazes[0], some.gazes[0]
    assert before.ordered
    assert after.ordered
    for clip in range(2):
        for frame in range(4):
            kept = after.frame(clip, frame).tolist()
            assert kept == before.frame(clip, frame).tolist()[: len(kept)]
    # Tiles of a frame take turns, and two tokens of every frame are 18 patches.
    assert after.lengths.tolist() == [[9] * 4] * 2


def test_a_prompt_s_videos_share_its_tokens(processor):
    texts = ["<vila/video> <vila/video>", "word1", "<vila/video>"]
    videos = [make_frames(seed=seed) for seed in range(3)]
    inputs = processor(text=texts, videos=videos, max_vision_tokens=6, selector="centre")
    first, second, third = tokens(inputs)
    assert first + second == 6
    assert third == 6
    assert min(first, second) >= 1


def test_thumbnails_that_are_kept_whole_stay(processor):
    options = {"num_video_frames_thumbnail": 2, "selector": "centre"}
    inputs = processor(text=PROMPT, videos=make_frames(), max_vision_tokens=10, **options)
    (video,) = inputs["gazed_videos"]
    assert video.thumbnails.gaze.mask.all()
    assert video.num_tokens(9) == 10
    with pytest.raises(MLLMError, match=r"max_vision_tokens=6.*6 tokens.*thumbnails"):
        processor(text=PROMPT, videos=make_frames(), max_vision_tokens=6, **options)
    gazed = processor(
        text=PROMPT,
        videos=make_frames(),
        max_vision_tokens=6,
        gazing_ratio_thumbnail=0.5,
        **options,
    )
    assert tokens(gazed) == [6]


def test_two_videos_and_one_token(processor):
    with pytest.raises(MLLMError, match="2 videos may not have less"):
        processor(text="<vila/video> <vila/video>", videos=[make_frames()] * 2, max_vision_tokens=1)


@pytest.mark.parametrize("wrong", [0, -3, 2.5, "7", True, [7]])
def test_numbers_that_are_none(processor, wrong):
    with pytest.raises(MLLMError, match="max_vision_tokens"):
        processor(text=PROMPT, videos=make_frames(), max_vision_tokens=wrong)


def test_it_is_saved_and_replaced_by_other_budgets(processor, tmp_path):
    made = make_processor(max_vision_tokens=5, autogaze_model_id="centre")
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path, num_video_frames_thumbnail=0)
    assert again.max_vision_tokens == 5
    assert tokens(again(text=PROMPT, videos=make_frames())) == [5]
    assert tokens(again(text=PROMPT, videos=make_frames(), ratio=1)) == [4 * 5]
    assert tokens(again(text=PROMPT, videos=make_frames(), max_vision_tokens=7)) == [7]


def test_a_model_takes_what_was_cut(processor):
    inputs = processor(text=PROMPT, videos=make_frames(), max_vision_tokens=5, selector="centre")
    model = make_model(video_token_id=processor.video_token_id)
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
    dict_ = processor(
        text=PROMPT,
        videos=make_frames(),
        max_vision_tokens=9,
        num_video_frames_thumbnail=1,
        selector="centre",
        published=True,
    )
    assert model(**dict_, video_token_id=processor.video_token_id).logits.isfinite().all()


@st.composite
def videos_and_budgets(draw):
    videos = []
    for _ in range(draw(st.integers(1, 3))):
        chunks = []
        clips = draw(st.integers(1, 3))
        for _ in range(draw(st.integers(1, 2))):
            frames = draw(st.integers(1, 3))
            counts = draw(
                st.lists(st.integers(0, 20), min_size=clips * frames, max_size=clips * frames)
            )
            counts[0] = max(1, counts[0])
            ids = torch.cat([torch.arange(count) for count in counts])
            gaze = Gaze(PYRAMID, ids, torch.tensor(counts).view(clips, frames), ordered=False)
            order = torch.cat([torch.arange(count).flip(0) for count in counts])
            chunks.append(
                GazedClips(gaze, ids[:, None, None, None].float().expand(-1, 3, 1, 1), order=order)
            )
        videos.append(GazedVideo(tuple(chunks)))
    return videos, draw(st.integers(len(videos), 60)), draw(st.integers(1, 9))


@given(videos_and_budgets())
def test_budgets_are_used_to_the_last_token(drawn):
    videos, most, shuffle = drawn
    kept = fit(videos, most, shuffle)
    needed = sum(video.num_tokens(shuffle) for video in videos)
    assert sum(video.num_tokens(shuffle) for video in kept) == min(needed, most)
    for before, after in zip(videos, kept, strict=True):
        assert after.num_tokens(shuffle) >= 1
        for one, other in zip(before.tiles, after.tiles, strict=True):
            assert (other.gaze.lengths <= one.gaze.lengths).all()
            assert other.pixels[:, 0, 0, 0].long().equal(other.gaze.ids)


class TestSavedGaze:
    def test_it_gives_the_same_again(self, processor, path, tmp_path):
        first = processor(text=PROMPT, videos=path, ratio=0.3, num_video_frames=20)
        (gaze,) = first.gazes
        gaze.save(tmp_path / "gaze.safetensors")
        for made in (gaze, [gaze], tmp_path / "gaze.safetensors"):
            again = processor(text=PROMPT, videos=path, gaze=made, selector="random")
            assert again["input_ids"].equal(first["input_ids"])
            for one, other in zip(
                first["gazed_videos"][0].parts, again["gazed_videos"][0].parts, strict=True
            ):
                assert one.pixels.equal(other.pixels)
            assert again.gazes[0].ids.equal(gaze.ids)
            assert again.gazes[0].source == gaze.source

    def test_its_first_patches(self, processor, path):
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        less = processor(text=PROMPT, videos=path, gaze=gaze, ratio=0.1).gazes[0]
        assert (less.lengths <= 2).all()
        assert less.frame(0, 0).tolist() == gaze.frame(0, 0).tolist()[:2]
        assert tokens(processor(text=PROMPT, videos=path, gaze=gaze, max_vision_tokens=2)) == [2]

    def test_without_an_order_nothing_comes_first(self, processor, path):
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        masked = Gaze.from_mask(PYRAMID, gaze.mask, source=gaze.source)
        assert tokens(processor(text=PROMPT, videos=path, gaze=masked)) == tokens(
            processor(text=PROMPT, videos=path, gaze=gaze)
        )
        for budget in ({"ratio": 0.1}, {"max_vision_tokens": 2}):
            with pytest.raises(MLLMError, match="in which order"):
                processor(text=PROMPT, videos=path, gaze=masked, **budget)

    def test_thumbnails_are_gazed_at_anew(self, processor, path):
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        with_small = make_processor(gazing_ratio_thumbnail=0.5)
        (video,) = with_small(text=PROMPT, videos=path, gaze=gaze)["gazed_videos"]
        assert video.thumbnails.gaze.num_clips == 2
        assert (video.thumbnails.gaze.lengths == 10).all()

    def test_frames_without_a_file(self, processor):
        (gaze,) = processor(text=PROMPT, videos=make_frames(), ratio=0.3).gazes
        again = processor(text=PROMPT, videos=make_frames(), gaze=gaze)
        assert again.gazes[0].ids.equal(gaze.ids)
        with pytest.raises(MLLMError, match="num_video_frames=4"):
            processor(text=PROMPT, videos=make_frames(), gaze=gaze, num_video_frames=3)
        with pytest.raises(MLLMError, match="2 tiles"):
            processor(text=PROMPT, videos=make_frames(height=64, width=64), gaze=gaze)

    def test_one_of_several(self, processor, path):
        texts = "<vila/video> <vila/video>"
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        made = processor(text=texts, videos=[path, path], gaze=[None, gaze], ratio=0.1).gazes
        assert (made[0].lengths <= 2).all()
        assert (made[1].lengths <= 2).all()
        for wrong in (gaze, [gaze], [gaze] * 3):
            with pytest.raises(MLLMError, match="given for 2 videos"):
                processor(text=texts, videos=[path, path], gaze=wrong)

    def test_of_another_video_or_grid(self, processor, path, tmp_path):
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        others = {
            "pixels": make_video(tmp_path / "size.mp4", num_frames=40, width=64, height=64),
            "another video": make_video(tmp_path / "same.mp4", num_frames=41, width=112, height=56),
        }
        for words, other in others.items():
            with pytest.raises(MLLMError, match=words):
                processor(text=PROMPT, videos=other, gaze=gaze)
        pyramid = PatchPyramid((56,), 14)
        single = autogaze.gaze_video(path, selector=Centre(pyramid), ratio=0.2)
        with pytest.raises(MLLMError, match="tower takes"):
            processor(text=PROMPT, videos=path, gaze=single)
        tiles = replace(gaze.source.tiles, content_width=100)
        padded = replace(gaze, source=replace(gaze.source, tiles=tiles))
        with pytest.raises(MLLMError, match="padded"):
            processor(text=PROMPT, videos=path, gaze=padded)

    @pytest.mark.parametrize(
        "wrong", [3, "nowhere.safetensors", [3], lambda grid: None, torch.zeros(3)]
    )
    def test_of_other_types(self, processor, path, wrong):
        with pytest.raises(AutoGazeError):
            processor(text=PROMPT, videos=path, gaze=wrong)

    def test_a_loss_beside_it(self, processor, path):
        (gaze,) = processor(text=PROMPT, videos=path, ratio=0.3).gazes
        with pytest.raises(MLLMError, match="give loss without gaze"):
            processor(text=PROMPT, videos=path, gaze=gaze, loss=0.1)


def test_a_context_that_is_too_short_names_what_fits(processor, path):
    model = make_model(text_config={"max_position_embeddings": 16})
    options = {"text": PROMPT, "videos": path, "selector": "centre"}
    inputs = processor(**options, num_video_frames=20, ratio=1.0)
    with pytest.raises(MLLMError, match="holds 16") as raised:
        model.generate(**inputs, max_new_tokens=3)
    most = int(str(raised.value).partition("max_vision_tokens=")[2].split()[0])
    assert most == 16 - 3 - 1
    fits = processor(**options, num_video_frames=20, max_vision_tokens=most)
    assert tokens(fits) == [most]
    assert model.generate(**fits, max_new_tokens=3).shape == (1, 16)
