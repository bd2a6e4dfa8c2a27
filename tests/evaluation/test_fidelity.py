"""`bench fidelity`: what is compared, and how sure one can be."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from autogaze import Gaze, PatchPyramid
from autogaze.errors import VideoError
from autogaze.evaluation.fidelity import (
    bench_fidelity,
    between,
    cosines,
    dense_features,
    nearest,
    plot_fidelity,
    print_report,
    same_neighbours,
)
from autogaze.evaluation.videos import find_videos, read_clips
from tests.clips import make_video
from tests.evaluation import tiny


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    sizes = {"a": (96, 64), "b": (64, 96), "c": (80, 80)}
    return [str(make_video(folder / f"{name}.mp4", 20, *size)) for name, size in sizes.items()]


@pytest.fixture(scope="module")
def report(videos):
    encoder = tiny.encoder(attn_type="frame_independent")
    return bench_fidelity(encoder, videos, ["run-length"], [0.1, 1.0], clips=2)


def test_every_selector_and_the_controls_at_every_budget(report):
    assert [(row.selector, row.ratio) for row in report.rows] == [
        (name, ratio) for name in ("run-length", "random", "centre") for ratio in (0.1, 1.0)
    ]
    assert (report.num_clips, report.num_frames) == (6, 60)  # 16 and 4 frames of each video


def test_tokens_are_a_share_of_the_finest_grid(report):
    random = {row.ratio: row.share for row in report.rows if row.selector == "random"}
    assert random == {0.1: 2 / 16, 1.0: 21 / 16}


def test_seeing_more_is_nearer_to_dense(report):
    for name in ("random", "centre"):
        few, all_ = (row for row in report.rows if row.selector == name)
        assert few.frame_cosine.mean < all_.frame_cosine.mean <= 1


def test_a_gaze_at_the_finest_scale_has_the_dense_features(videos):
    encoder = tiny.encoder(attn_type="frame_independent")
    clip = read_clips(videos, 64, per_video=1)[0]
    finest = PatchPyramid((64,), 16)
    frames = encoder.normalised(clip.clips.frames)
    gazed = encoder.gazed(frames, Gaze.everything(finest, 1, 16)).pooler_output[0]
    assert cosines(gazed, dense_features(encoder, clip)).min() > 1 - 1e-6


def test_models_without_a_pooler_are_compared_by_their_tokens_mean(videos):
    encoder = tiny.encoder(tiny.siglip(vision_use_head=False), attn_type="frame_independent")
    report = bench_fidelity(encoder, videos, ["centre"], [1.0], clips=1)
    assert all(row.clip_cosine.mean > 0.9 for row in report.rows)


def test_random_weights_are_marked(report):
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "RANDOM WEIGHTS" in text
    assert "run-length" in text
    assert "3 videos, 6 clips, 60 frames" in text
    assert json.loads(json.dumps(report.to_json()))["random_weights"] is True


def test_the_plot_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    plot_fidelity(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 400


def test_two_clips_are_each_others_nearest_which_says_nothing(videos, tmp_path):
    encoder = tiny.encoder(attn_type="frame_independent")
    two, three = (
        bench_fidelity(encoder, videos[:n], ["run-length"], [0.1, 1.0], clips=1) for n in (2, 3)
    )
    assert all(row.clip_neighbour is not None for row in three.rows)
    assert all(row.clip_neighbour is None for row in two.rows)
    assert all(row.frame_neighbour is not None for row in two.rows)
    assert json.loads(json.dumps(two.to_json()))["rows"][0]["clip_neighbour"] is None
    console = Console(width=160, record=True, file=io.StringIO())
    print_report(two, console)
    text = console.export_text()
    assert "2 clips only" in text
    (line,) = (line for line in text.splitlines() if "run-length" in line and "100 %" in line)
    assert line.split("│")[6].strip() == "-"
    pytest.importorskip("matplotlib")
    plot_fidelity(two, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


# Measures.


def test_the_nearest_is_looked_for_in_other_groups():
    features = torch.tensor([[1.0, 0], [1, 0.01], [0.9, 0.3], [0, 1]])
    assert nearest(features, torch.arange(4)).tolist() == [1, 0, 1, 2]
    assert nearest(features, torch.tensor([0, 0, 1, 1])).tolist() == [2, 2, 1, 1]
    assert nearest(features, torch.zeros(4, dtype=torch.long)).tolist() == [-1] * 4


def test_the_same_features_have_the_same_neighbours():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    group = torch.arange(9)
    assert same_neighbours(features, 3 * features, group).all()
    turned = features.clone()
    turned[0] = -turned[0]
    assert not same_neighbours(features, turned, group).all()


def test_between_is_the_mean_cosine_of_two_different_rows():
    assert between(torch.eye(3)) == pytest.approx(0, abs=1e-12)
    assert between(torch.ones(5, 2)) == pytest.approx(1)
    assert between(torch.tensor([[1.0, 0], [1, 0], [-1, 0]])) == pytest.approx(-1 / 3)


# Videos.


def test_folders_stand_for_the_videos_in_them(videos, tmp_path):
    folder = Path(videos[0]).parent
    assert find_videos([str(folder), videos[0]]) == videos
    with pytest.raises(VideoError, match="no videos"):
        find_videos([str(tmp_path)])


def test_a_single_clip_has_no_neighbours(videos):
    with pytest.raises(VideoError, match="at least 2"):
        read_clips(videos[:1], 64, per_video=1)
