"""The hook: allowed patches, budgets and early stopping, in every way to gaze."""

import pytest
import torch

from autogaze.errors import SelectorError
from autogaze.models.autogaze.hook import FrameRules
from autogaze.selectors.learned import Learned
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

V = 20


def hooked(hook, **changes):
    model = tiny_model(**changes)
    model.gazing_model.hook = hook
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("static_shapes", [False, True])
def test_only_allowed_patches_are_chosen(static_shapes, temperature):
    allowed = [1, 3, 4, 9, 10, 11, 19]
    model = hooked(FrameRules(allowed=allowed))
    model.static_shapes = static_shapes
    generator = torch.Generator().manual_seed(0)
    call = {"temperature": temperature, "generator": generator}
    gaze = model({"video": tiny_video(2, 3)}, gazing_ratio=1, **call).gaze
    assert gaze.lengths.tolist() == [[7] * 3] * 2  # the cap is what is allowed
    for clip in range(2):
        for frame in range(3):
            assert sorted(gaze.frame(clip, frame).tolist()) == allowed
    few = model({"video": tiny_video(2, 3)}, gazing_ratio=0.25, **call).gaze
    assert few.lengths.tolist() == [[5] * 3] * 2
    assert set(few.ids.tolist()) <= set(allowed)


def test_rules_that_allow_everything_change_nothing():
    video = tiny_video(2, 3)
    threshold = threshold_of(tiny_model(), video)
    call = {"gazing_ratio": 0.6, "task_loss_requirement": threshold}
    expected = tiny_model()({"video": video}, **call)
    for hook in (FrameRules(), lambda frame: None, FrameRules(allowed=range(V))):
        found = hooked(hook)({"video": video}, **call)
        assert found["gazing_pos"].equal(expected["gazing_pos"])
        assert found["if_padded_gazing"].equal(expected["if_padded_gazing"])


def test_the_likeliest_of_the_allowed_are_chosen():
    video = tiny_video(1, 1)
    free = tiny_model()({"video": video}, gazing_ratio=0.05).gaze.ids
    without = [id for id in range(V) if id != int(free[0])]
    model = tiny_model()
    tokens, _ = model.gazing_model.vision_tokens(video)
    logits, _ = model.gazing_model.gaze_decoder.heads(
        model.gazing_model.gaze_decoder(tokens.flatten(1, 2))[:, -1]
    )
    second = logits[0, 0, :V].argsort(descending=True)[1]
    found = hooked(FrameRules(allowed=without))({"video": video}, gazing_ratio=0.05).gaze.ids
    assert found.tolist() == [int(second)]


def test_clips_and_frames_have_their_own_rules():
    mask = torch.zeros(2, V, dtype=torch.bool)
    mask[0, :4], mask[1, 4:] = True, True

    def hook(frame):
        if frame == 1:
            return FrameRules(allowed=mask, budget=[3, 8])
        return FrameRules(budget=2) if frame == 0 else None

    model, video = hooked(hook), tiny_video(2, 3)
    for budget in (1 << 30, 1):  # in one batch, and clip by clip
        model.memory_budget = budget
        gaze = model({"video": video}, gazing_ratio=0.5).gaze
        assert gaze.lengths.tolist() == [[2, 3, 10], [2, 8, 10]]
        assert set(gaze.frame(0, 1).tolist()) <= set(range(4))
        assert set(gaze.frame(1, 1).tolist()) <= set(range(4, V))
    model.memory_budget = 1 << 30
    stream, parts = model.stream(2, num_frames=3), []
    for frame in video.split(1, dim=1):
        parts.append(model.generate(frame, caps=[10], stream=stream).to_gaze())
    assert type(gaze).cat_frames(parts).ids.equal(gaze.ids)
    twice = model.generate(video, caps=[10] * 3, repetitions=2).to_gaze()
    assert twice.lengths.tolist() == gaze.lengths.tolist() * 2
    assert twice[2].ids.equal(gaze[0].ids)
    assert twice[3].ids.equal(gaze[1].ids)


def test_fixed_budgets_and_no_early_stopping():
    video = tiny_video(2, 2)
    threshold = threshold_of(tiny_model(), video)
    model = hooked(FrameRules(budget=7, early_stopping=False))
    gaze = model({"video": video}, gazing_ratio=0.1, task_loss_requirement=threshold).gaze
    assert gaze.lengths.tolist() == [[7, 7]] * 2
    stopping = hooked(FrameRules(budget=7))
    lengths = stopping({"video": video}, task_loss_requirement=1e9).gaze.lengths
    assert lengths.tolist() == [[1, 1]] * 2
    on = hooked(FrameRules(early_stopping=False))
    assert on({"video": video}, task_loss_requirement=1e9).gaze.lengths.tolist() == [[V, V]] * 2


def test_a_selector_and_inhibition_of_return_keep_to_the_rules():
    model = hooked(FrameRules(allowed=range(4, V)), inhibition_of_return=0.05)
    frames = torch.rand(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gaze = Learned(model).select(frames, ratio=0.5)
    assert gaze.num_patches == 40
    assert int(gaze.ids.min()) >= 4


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (FrameRules(allowed=[]), "no patch"),
        (FrameRules(allowed=torch.zeros(V, dtype=torch.bool)), "no patch"),
        (FrameRules(allowed=[3, V]), "20"),
        (FrameRules(allowed=[-1]), "-1"),
        (FrameRules(allowed=torch.ones(3, dtype=torch.bool)), r"\(3,\)"),
        (FrameRules(allowed=torch.ones(V)), "float32"),
        (FrameRules(budget=0), "0"),
        (FrameRules(budget=V + 1), "21"),
        (FrameRules(budget=[1, 2, 3]), r"\[1, 2, 3\]"),
        (lambda frame: [1, 2], "list"),
    ],
)
def test_rules_that_make_no_sense_are_refused(hook, words):
    with pytest.raises(SelectorError, match=words):
        hooked(hook)({"video": tiny_video(2, 2)}, gazing_ratio=0.5)


def test_the_published_place_names_the_hook():
    model = tiny_model()
    with pytest.raises(SelectorError, match=r"gazing_model\.hook"):
        model.gazing_model.logits_processor = [lambda ids, scores: scores]
