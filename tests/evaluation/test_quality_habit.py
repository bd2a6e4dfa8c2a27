"""`bench quality`: the patches that gazes at other clips take most often."""

from collections import Counter

import pytest
import torch

from autogaze import Gaze
from autogaze.clips import frame_caps
from autogaze.errors import SelectorError
from autogaze.evaluation.quality.clips import read_batch
from autogaze.evaluation.quality.contenders import Serving, Weights, count_taken, habits, make_habit
from autogaze.evaluation.quality.measure import make_rows, measure
from autogaze.evaluation.quality.metrics import CanvasJudge
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.utils.seeding import seeded
from tests.evaluation.quality import PYRAMID, contender, some_clips

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


# What is counted, and what is made of it.


def test_patches_are_counted_by_the_number_of_their_frame():
    counts = count_taken([gaze_at([3, 7], [1]), gaze_at([7], [1, 3]), gaze_at([7, 0], [])])
    expected = [{0: 1, 3: 1, 7: 3}, {1: 2, 3: 1}]
    for frame, taken in enumerate(expected):
        assert counts[frame].tolist() == [taken.get(patch, 0) for patch in range(V)]


def test_a_habit_takes_the_most_frequent_patches_and_of_equals_the_coarser():
    counts = torch.zeros(3, V, dtype=torch.long)
    counts[0, [9, 2, 15, 6]] = torch.tensor([5, 4, 4, 1])
    counts[1, [19, 18, 17, 16]] = torch.tensor([1, 1, 1, 2])
    habit = make_habit(PYRAMID, counts, 3 / V)
    assert chosen(habit) == [{9, 2, 15}, {16, 17, 18}, {0, 1, 2}]
    assert chosen(make_habit(PYRAMID, counts, 2 / V)) == [{9, 2}, {16, 17}, {0, 1}]


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.29, 0.5, 1.0])
def test_every_frame_takes_as_many_as_its_cap_allows(clips, ratio):
    short = [gaze_at([5], [], [5, 6])] * len(clips)  # that stopped before their caps, too
    for gazes in (random_gazes(len(clips), ratio), short):
        for habit in habits(clips, gazes, ratio):
            assert habit.lengths.tolist() == [frame_caps(ratio, 3, V)]


def test_the_habit_of_gazes_that_are_all_the_same_is_that_gaze(clips):
    (gaze,) = random_gazes(1, 0.3)
    for habit in habits(clips, [gaze] * len(clips), 0.3):
        assert torch.equal(habit.mask, gaze.mask)


# Whose gazes it is made of.


def test_clips_of_its_own_source_and_of_other_kinds_have_no_say(clips):
    gazes = random_gazes(len(clips), 0.3)
    before = habits(clips, gazes, 0.3)
    for changed, clip in enumerate(clips):
        after = habits(clips, [*gazes[:changed], gaze_at([0], [], []), *gazes[changed + 1 :]], 0.3)
        same = [torch.equal(a.mask, b.mask) for a, b in zip(before, after, strict=True)]
        kin = [other.kind == clip.kind and other.source != clip.source for other in clips]
        assert all(one or other for one, other in zip(same, kin, strict=True))
        assert not all(same)


def test_a_habit_holds_what_the_others_took_most_often(clips):
    gazes = random_gazes(len(clips), 0.3)
    for clip, habit in zip(clips, habits(clips, gazes, 0.3), strict=True):
        for frame, taken in enumerate(chosen(habit)):
            votes = Counter(
                patch
                for other, gaze in zip(clips, gazes, strict=True)
                if other.kind == clip.kind and other.source != clip.source
                for patch in gaze.frame(0, frame).tolist()
            )
            expected = sorted(range(V), key=lambda patch: (-votes[patch], patch))[: len(taken)]
            assert taken == set(expected)


# Its row.


def test_it_has_a_row_behind_the_others_where_greedy_is_compared():
    everybody = [contender(name) for name in ("greedy", "change", "random")]
    rows = make_rows(everybody)
    assert [row.name for row in rows] == [
        *("greedy", "change", "random", "greedy (shuffled)", "change (shuffled)"),
        "greedy (habit)",
    ]
    assert (rows[-1].contender, rows[-1].serving) == (0, Serving.HABIT)
    assert Serving.HABIT not in [row.serving for row in make_rows(everybody[1:])]


def test_its_losses_are_those_of_greedys_habit_at_that_budget(clips):
    greedy, frames = contender("greedy"), read_batch(clips)
    told: list[str] = []
    measured = measure(
        clips, [greedy, contender("random")], [CanvasJudge()], (0.3, 0.1),
        batch=4, device=CPU, step=told.append,
    )  # fmt: skip
    row = [row.name for row in measured.rows].index("greedy (habit)")
    for b, ratio in enumerate((0.1, 0.3)):
        own = list(greedy.gaze(frames, ratio, seeded("any")))
        expected = canvas_losses(frames.frames, Gaze.cat_clips(habits(clips, own, ratio))).mean(1)
        assert measured.losses[0, row, b] == pytest.approx(expected.numpy(), rel=1e-5)
        assert measured.shares[row, b] == pytest.approx(max(1, int(ratio * V)) / V)
    assert measured.losses[0, row] != pytest.approx(measured.losses[0, 0])
    assert told.count("judging greedy (habit)") == 3  # batches
    assert told.count("greedy gazes") == 3  # and no more of them for the habit


def test_weights_cannot_be_called_like_a_control():
    for name in ("greedy (habit)", "ours (habit)", "ours (shuffled)"):
        with pytest.raises(SelectorError, match="take another name"):
            Weights.parse(f"{name}=folder")
    assert Weights.parse("habit=folder").name == "habit"
