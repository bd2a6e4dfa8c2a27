"""Whose gazes are compared in `bench quality`: own, shuffled and content-blind ones."""

from collections import Counter

import pytest
import torch

from autogaze import Gaze
from autogaze.clips import frame_caps
from autogaze.errors import SelectorError, VideoError
from autogaze.evaluation.quality.clips import read_batch
from autogaze.evaluation.quality.measure import make_rows, measure
from autogaze.evaluation.quality.metrics import CanvasMetric
from autogaze.evaluation.quality.selectors import (
    Variant,
    parse_weights,
    prior,
    priors,
    shuffled,
)
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.utils.seeding import seeded
from tests.evaluation.quality.tiny import PYRAMID, compared, some_clips

CPU = torch.device("cpu")
SOURCES = {"static": ["a", "b", "c", "a"], "moving": ["p", "q", "r"], "composed": ["p", "q", "r"]}
V = PYRAMID.num_patches


def gaze_at(*frames: list[int]) -> Gaze:
    """One clip's gaze at these ids of every frame."""
    lengths = torch.tensor([[len(frame) for frame in frames]])
    return Gaze(PYRAMID, torch.tensor([patch for frame in frames for patch in frame]), lengths)


def random_gazes(count: int, ratio: float, num_frames: int = 3) -> list[Gaze]:
    generator = torch.Generator().manual_seed(0)
    caps = frame_caps(ratio, num_frames, V)
    return [
        gaze_at(*(torch.randperm(V, generator=generator)[:cap].tolist() for cap in caps))
        for _ in range(count)
    ]


def chosen(gaze: Gaze) -> list[set[int]]:
    return [set(gaze.frame(0, frame).tolist()) for frame in range(gaze.num_frames)]


@pytest.fixture(scope="module")
def clips():
    return some_clips(SOURCES)


# Content-blind priors.


def test_a_prior_takes_the_most_frequent_patches_and_of_equals_the_coarser():
    counts = torch.zeros(3, V, dtype=torch.long)
    counts[0, [9, 2, 15, 6]] = torch.tensor([5, 4, 4, 1])
    counts[1, [19, 18, 17, 16]] = torch.tensor([1, 1, 1, 2])
    assert chosen(prior(PYRAMID, counts, 3 / V)) == [{9, 2, 15}, {16, 17, 18}, {0, 1, 2}]
    assert chosen(prior(PYRAMID, counts, 2 / V)) == [{9, 2}, {16, 17}, {0, 1}]


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.29, 0.5, 1.0])
def test_every_frame_takes_as_many_as_its_cap_allows(clips, ratio):
    short = [gaze_at([5], [], [5, 6])] * len(clips)  # that stopped before their caps, too
    for gazes in (random_gazes(len(clips), ratio), short):
        for one in priors(clips, gazes, ratio):
            assert one.lengths.tolist() == [frame_caps(ratio, 3, V)]


def test_the_prior_of_gazes_that_are_all_the_same_is_that_gaze(clips):
    (gaze,) = random_gazes(1, 0.3)
    for one in priors(clips, [gaze] * len(clips), 0.3):
        assert torch.equal(one.mask, gaze.mask)


def test_clips_of_its_own_source_and_of_other_kinds_have_no_say(clips):
    gazes = random_gazes(len(clips), 0.3)
    before = priors(clips, gazes, 0.3)
    for changed, clip in enumerate(clips):
        after = priors(clips, [*gazes[:changed], gaze_at([0], [], []), *gazes[changed + 1 :]], 0.3)
        same = [torch.equal(a.mask, b.mask) for a, b in zip(before, after, strict=True)]
        kin = [other.kind == clip.kind and other.source != clip.source for other in clips]
        assert all(one or other for one, other in zip(same, kin, strict=True))
        assert not all(same)


def test_a_prior_holds_what_the_others_took_most_often(clips):
    gazes = random_gazes(len(clips), 0.3)
    for clip, one in zip(clips, priors(clips, gazes, 0.3), strict=True):
        for frame, taken in enumerate(chosen(one)):
            votes = Counter(
                patch
                for other, gaze in zip(clips, gazes, strict=True)
                if other.kind == clip.kind and other.source != clip.source
                for patch in gaze.frame(0, frame).tolist()
            )
            expected = sorted(range(V), key=lambda patch: (-votes[patch], patch))[: len(taken)]
            assert taken == set(expected)


def test_it_has_a_row_behind_the_others_where_greedy_is_compared():
    everybody = [compared(name) for name in ("greedy", "change", "random")]
    rows = make_rows(everybody)
    assert [row.name for row in rows] == [
        *("greedy", "change", "random", "greedy (shuffled)", "change (shuffled)"),
        "greedy (prior)",
    ]
    assert (rows[-1].number, rows[-1].variant) == (0, Variant.PRIOR)
    assert Variant.PRIOR not in [row.variant for row in make_rows(everybody[1:])]


def test_its_losses_are_those_of_greedys_prior_at_that_budget(clips):
    greedy, frames = compared("greedy"), read_batch(clips)
    steps: list[str] = []
    measured = measure(
        clips, [greedy, compared("random")], [CanvasMetric()], (0.3, 0.1),
        batch=4, device=CPU, step=steps.append,
    )  # fmt: skip
    row = [row.name for row in measured.rows].index("greedy (prior)")
    for b, ratio in enumerate((0.1, 0.3)):
        own = list(greedy.select(frames, ratio, seeded("any")).gaze)
        expected = canvas_losses(frames.frames, Gaze.cat_clips(priors(clips, own, ratio))).mean(1)
        assert measured.losses[0, row, b] == pytest.approx(expected.numpy(), rel=1e-5)
        assert measured.shares[row, b] == pytest.approx(max(1, int(ratio * V)) / V)
    assert measured.losses[0, row] != pytest.approx(measured.losses[0, 0])
    assert steps.count("measuring greedy (prior)") == 3  # batches
    assert steps.count("greedy gazes") == 3  # and no more of them for the prior


def test_weights_cannot_be_called_like_a_control():
    for name in ("greedy", "greedy (prior)", "ours (prior)", "ours (shuffled)"):
        with pytest.raises(SelectorError, match="take another name"):
            parse_weights([f"{name}=folder"])
    assert parse_weights(["prior=folder", "a=b=c"]) == {"prior": "folder", "a": "b=c"}


# Shuffled gazes.


def test_shuffled_are_of_another_source_and_the_same_kind(clips):
    others = shuffled(clips)
    assert sorted(others) == list(range(len(clips)))
    for clip, other in zip(clips, others, strict=True):
        assert clip.kind == clips[other].kind
        assert clip.source != clips[other].source


def test_too_few_videos_to_shuffle_are_refused():
    with pytest.raises(VideoError, match="2 of 3 static clips"):
        shuffled(some_clips({"static": ["a", "b", "a"]}))
