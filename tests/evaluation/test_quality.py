"""`bench quality`: whose gazes are judged, on what, and by whom."""

import numpy as np
import pytest
import torch

from autogaze import Gaze
from autogaze.errors import VideoError
from autogaze.evaluation.quality.clips import Material, plan_clips, read_batch
from autogaze.evaluation.quality.contenders import Contender, donors
from autogaze.evaluation.quality.measure import make_rows, measure, num_steps
from autogaze.evaluation.quality.metrics import (
    CanvasJudge,
    EfficientNetFeatures,
    FeatureJudge,
    Shown,
    TaskJudge,
    Trial,
)
from autogaze.evaluation.quality.stops import can_stop, measure_stops
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.selectors.learned import Learned
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.utils.seeding import seeded
from tests.clips import make_video
from tests.datasets.pictures import make_pictures
from tests.evaluation.quality import PYRAMID, contender, save_judge, some_clips, tiny_learned
from tests.models.tiny import tiny_model
from tests.reconstruction.efficientnets import random_efficientnet

CPU = torch.device("cpu")
SOURCES = {"static": ["a", "b", "c", "a"], "moving": ["p", "q", "r"]}
RATIOS = (0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def clips():
    return some_clips(SOURCES)


@pytest.fixture(scope="module")
def contenders():
    return [tiny_learned(), *map(contender, ("greedy", "run-length", "random", "centre"))]


@pytest.fixture(scope="module")
def measured(clips, contenders):
    return measure(clips, contenders, [CanvasJudge()], RATIOS, batch=3, device=CPU)


def of(measured, name: str) -> np.ndarray:
    """(budgets, N) canvas losses of a row."""
    names = [row.name for row in measured.rows]
    return measured.losses[0, names.index(name)]


# Who is compared.


def test_everybody_but_the_controls_is_also_shuffled(measured):
    assert [row.name for row in measured.rows] == [
        *("tiny", "greedy", "run-length", "random", "centre"),
        *("tiny (shuffled)", "greedy (shuffled)", "run-length (shuffled)"),
        "greedy (habit)",
    ]


def test_losses_are_those_of_the_selectors_own_gazes(measured, clips, contenders):
    frames = read_batch(clips)
    for one in contenders:
        gaze = one.gaze(frames, 0.3, seeded("quality", 0))
        expected = canvas_losses(frames.frames, gaze).mean(1)
        assert of(measured, one.name)[1] == pytest.approx(expected.numpy(), rel=1e-5)


def test_shuffled_rows_are_served_the_gazes_of_other_videos(measured, clips, contenders):
    frames, others = read_batch(clips), donors(clips)
    own = contenders[2].gaze(frames, 0.3, seeded("quality", 0))
    given = Gaze.cat_clips([own[other] for other in others])
    expected = canvas_losses(frames.frames, given).mean(1)
    assert of(measured, "run-length (shuffled)")[1] == pytest.approx(expected.numpy(), rel=1e-5)
    assert of(measured, "run-length (shuffled)")[1] != pytest.approx(of(measured, "run-length")[1])


def test_shuffled_rows_take_as_much_in_every_kind(measured, clips):
    names = [row.name for row in measured.rows]
    own, shuffled = (
        measured.shares[names.index(name)] for name in ("run-length", "run-length (shuffled)")
    )
    assert not np.array_equal(own, shuffled)
    for kind in SOURCES:
        members = [clip.kind == kind for clip in clips]
        assert own[:, members].mean(1) == pytest.approx(shuffled[:, members].mean(1))


def test_donors_are_of_another_source_and_the_same_kind(clips):
    others = donors(clips)
    assert sorted(others) == list(range(len(clips)))
    for clip, other in zip(clips, others, strict=True):
        assert clip.kind == clips[other].kind
        assert clip.source != clips[other].source


def test_too_few_videos_to_shuffle_are_refused():
    with pytest.raises(VideoError, match="2 of 3 static clips"):
        donors(some_clips({"static": ["a", "b", "a"]}))


def test_gazing_at_everything_loses_nothing(measured):
    for name in ("tiny", "random", "centre", "tiny (shuffled)", "greedy (habit)"):
        assert of(measured, name)[2] == pytest.approx(0, abs=1e-7)


def test_more_patches_lose_less(measured):
    means = of(measured, "random").mean(1)
    assert (np.diff(means) < 0).all()


def test_figures_do_not_depend_on_batches(measured, clips, contenders):
    again = measure(clips, contenders, [CanvasJudge()], RATIOS, batch=7, device=CPU)
    assert again.losses == pytest.approx(measured.losses, rel=1e-5)
    assert np.array_equal(again.shares, measured.shares)


def test_another_seed_draws_other_random_gazes(measured, clips, contenders):
    again = measure(clips, contenders, [CanvasJudge()], RATIOS, batch=3, device=CPU, seed=1)
    assert of(again, "random")[0] != pytest.approx(of(measured, "random")[0])
    assert of(again, "centre")[0] == pytest.approx(of(measured, "centre")[0])


def test_the_progress_bar_ends_where_the_work_does(clips, contenders):
    told: list[str] = []
    measure(clips, contenders, [CanvasJudge()], (0.1,), batch=3, device=CPU, step=told.append)
    assert len(told) == num_steps(len(contenders), len(make_rows(contenders)), len(clips), 3)


def test_weights_that_spread_a_clips_budget_do_so_at_the_ratio_asked_for(clips):
    spread = {
        "sample_strategy_during_training": "dirichlet",
        "sample_strategy_during_inference": "dirichlet",
        "dirichlet": {"alpha": 1.0},
    }
    one = Contender("spread", Learned(tiny_model(gazing_ratio_each_frame_config=spread)))
    gaze = one.gaze(read_batch(clips), 0.4, seeded("spread"))
    assert len(set(map(tuple, gaze.lengths.tolist()))) > 1  # every clip has its own
    assert gaze.lengths.float().mean() == pytest.approx(0.4 * PYRAMID.num_patches, rel=0.2)
    alone = one.gaze(read_batch(clips[:1]), 0.4, seeded("spread"))
    assert torch.equal(alone.ids, gaze[0].ids)


# Judges.


def test_features_are_compared_place_by_place_by_their_direction():
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(2, 3, 3, 64, 64)
    quarter = Gaze(PYRAMID, torch.tensor([0] * 6), torch.ones(2, 3, dtype=torch.long))
    judge = FeatureJudge(lambda pictures: [3 * (2 * pictures - 1)], "colours")
    # One patch of the coarsest scale shows red, the rest is grey, which has no direction.
    assert judge.losses(Trial(Shown.of(red), quarter)).flatten().tolist() == pytest.approx(
        [1.5] * 6
    )
    whole = Gaze.everything(PYRAMID, 2, 3)
    assert judge.losses(Trial(Shown.of(red), whole)).abs().max() < 1e-6

    maps = [lambda x: 3 * (2 * x - 1), lambda x: (2 * x - 1).mean((2, 3))]
    both = FeatureJudge(
        lambda pictures: [view(pictures) for view in maps], "colours, and their mean"
    )
    # The means of red and of red on grey have one direction: half of the loss is gone.
    assert both.losses(Trial(Shown.of(red), quarter)).flatten().tolist() == pytest.approx(
        [0.75] * 6
    )


def test_unlike_features_lose_more():
    frames = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    judge, shown = (
        FeatureJudge(EfficientNetFeatures(random_efficientnet("lite1")), "network"),
        Shown.of(frames),
    )
    few, many = (
        judge.losses(Trial(shown, contender("centre").selector.select(frames, ratio=ratio)))
        for ratio in (0.05, 0.8)
    )
    assert few.shape == (1, 2)
    assert (many > 0).all()
    assert (many < few).all()
    assert (few < 4).all()


def test_the_frames_own_features_are_computed_once():
    seen: list[int] = []

    def features(pictures):
        seen.append(len(pictures))
        return [pictures]

    frames = torch.rand(1, 2, 3, 64, 64)
    judge, shown = FeatureJudge(features, "counting"), Shown.of(frames)
    for ratio in (0.1, 0.2, 0.4):
        judge.losses(Trial(shown, contender("centre").selector.select(frames, ratio=ratio)))
    assert seen == [2] * 4
    judge.losses(Trial(Shown.of(frames), contender("centre").selector.select(frames, ratio=0.1)))
    assert seen == [2] * 6


@torch.inference_mode()
def test_networks_may_judge_a_part_of_the_frames(tmp_path):
    frames = torch.rand(2, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gaze = contender("random").selector.select(frames, ratio=0.3)
    whole, part = Trial(Shown.of(frames), gaze), Trial(Shown.of(frames, 3, (0, 4)), gaze)
    numbers = [[0, 3], [1, 4]]  # begins at 4 modulo 3
    features = FeatureJudge(EfficientNetFeatures(random_efficientnet("lite1")), "network")
    expected = features.losses(whole)[[[0], [1]], numbers]
    assert torch.allclose(features.losses(part), expected, rtol=1e-4)

    task = VideoMAEReconstruction.from_checkpoint(save_judge(tmp_path / "judge"))
    mae = TaskJudge(task, "mae", "l1")
    expected = [task(frames[clip][None], gaze[clip], numbers[clip]).losses for clip in (0, 1)]
    assert torch.equal(mae.losses(part), torch.cat(expected))
    assert torch.equal(mae.losses(whole), task(frames, gaze, range(6)).losses)


# Predicted and actual losses at the stop.


def test_frames_stop_where_the_predicted_loss_is_low_enough(clips):
    learned = tiny_learned(K=1, decode_positions="sequential")
    frames, threshold = read_batch(clips), 1e-3  # untrained, half of its predictions are below
    report = measure_stops(clips, [learned], CanvasJudge(), [threshold], batch=4, device=CPU)
    point = report.points[0]
    assert (point.name, point.group, report.judge) == ("tiny", "all", "canvas")
    assert 1 / PYRAMID.num_patches < point.share < 1
    assert point.at_last < 1
    gaze = learned.selector.select(frames, loss=threshold)
    kinds = torch.tensor([[clip.kind == kind for clip in clips] for kind in SOURCES]).float()
    kinds /= kinds.sum(1, keepdim=True)
    actual = (kinds @ canvas_losses(frames.frames, gaze).mean(1)).mean()
    assert point.actual.mean == pytest.approx(float(actual), rel=1e-5)
    assert point.excess.mean == pytest.approx(float(actual) / threshold - 1, rel=1e-4)
    shares = (kinds @ (gaze.lengths / PYRAMID.num_patches).mean(1)).mean()
    assert point.share == pytest.approx(float(shares))
    if point.at_last == 0:
        assert point.predicted <= threshold


def test_a_selector_that_measures_the_loss_stops_where_it_says(clips):
    greedy = contender("greedy")
    assert can_stop(greedy.selector, "canvas")
    assert not can_stop(greedy.selector, "video-mae")
    frames, threshold = read_batch(clips), 0.1
    report = measure_stops(clips, [greedy], CanvasJudge(), [threshold], batch=4, device=CPU)
    losses = canvas_losses(frames.frames, greedy.selector.select(frames, loss=threshold))
    assert losses.max() <= threshold  # so that below it is by whole patches alone
    for point in report.points:
        assert point.predicted == pytest.approx(point.actual.mean, rel=1e-4)
        assert point.actual.mean < threshold
        assert point.excess.mean < 0
    assert {point.group for point in report.points} == {"all", *SOURCES}


def test_bins_hold_every_frame_once_and_ascend(clips):
    learned = tiny_learned(K=1, decode_positions="sequential")
    thresholds = [0.0001, 1.0]
    report = measure_stops(clips, [learned], CanvasJudge(), thresholds, batch=4, device=CPU)
    for kind, sources in SOURCES.items():
        bins = [part for part in report.bins if part.kind == kind]
        assert sum(part.frames for part in bins) == len(thresholds) * 3 * len(sources)
        predicted = [part.predicted for part in bins]
        assert predicted == sorted(predicted)


# Clips.


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b"):
        (folder / "videos" / "val").mkdir(parents=True, exist_ok=True)
        make_video(folder / "videos" / "val" / f"{name}.mp4", 33)
    make_pictures(folder / "photos" / "val", 3)
    return Material.of_root(folder, "val")


def test_every_source_gives_one_clip_before_any_gives_two(material):
    clips = plan_clips(material, per_kind=5, side=64)
    kinds = [clip.kind for clip in clips]
    # Two windows of 16 lie in 33 frames.
    assert (kinds.count("static"), kinds.count("moving"), kinds.count("composed")) == (4, 5, 5)
    for kind, sources in (("static", 2), ("moving", 3), ("composed", 3)):
        first = [clip.source for clip in clips if clip.kind == kind][:sources]
        assert len(set(first)) == sources
    assert len({clip.name for clip in clips}) == len(clips)
    moving, composed = ([c.source for c in clips if c.kind == k] for k in ("moving", "composed"))
    assert moving == composed


def test_clips_follow_from_the_seed(material):
    once, again, other = (plan_clips(material, per_kind=3, side=64, seed=s) for s in (0, 0, 1))
    assert [clip.name for clip in once] == [clip.name for clip in again]
    assert torch.equal(read_batch(once).frames, read_batch(again).frames)
    assert not torch.equal(read_batch(once).frames, read_batch(other).frames)


def test_static_clips_are_cut_where_their_names_say(material):
    clips = [c for c in plan_clips(material, per_kind=4, side=64) if c.kind == "static"]
    first = next(clip for clip in clips if "#" not in clip.name)
    later = next(clip for clip in clips if clip.source == first.source and clip is not first)
    assert later.name == f"{first.source}#16"
    assert not torch.equal(first.read(), later.read())
    assert first.read().shape == (16, 3, 64, 64)


def test_places_without_anything_are_refused(tmp_path, material):
    with pytest.raises(VideoError, match="no such file"):
        Material.of_places([tmp_path / "nowhere"])
    with pytest.raises(VideoError, match="no videos"):
        Material.of_places([tmp_path])
    with pytest.raises(VideoError, match=r"has no folders .*/val"):
        Material.of_root(tmp_path, "val")
    with pytest.raises(VideoError, match="expected pictures"):
        Material.of_places(photos=[material.videos[0]])
