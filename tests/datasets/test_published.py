"""Names of datasets that AutoGaze's users import, with the arguments that they give."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autogaze.datasets import VideoFolder, clip, collate, video_folder
from autogaze.datasets.video_utils import (
    get_relative_video_path,
    process_video_frames,
    sample_frame_indices,
)
from autogaze.errors import TrainingError, VideoError


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two roots with a video of 8 frames in each split; frame k is k * 30 bright."""
    folder = tmp_path_factory.mktemp("roots")
    for name in ("one/train/a", "one/val/b", "two/train/c"):
        path = folder / f"{name}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width = stream.height = 32
            for k in range(8):
                pixels = np.full((32, 32, 3), k * 30, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return folder


def shades(shown) -> list[int]:
    return [round(float(value) / 30) for value in shown.frames.float().mean((1, 2, 3))]


def test_the_known_arguments(roots):
    both = f"{roots / 'one'}, {roots / 'two'}"
    clips = VideoFolder(root=both, split="train", clip_len=3, frame_sample_rate=2, side=32)
    assert isinstance(clips, video_folder.VideoFolder)
    assert [clips.name(k).rpartition("/")[2] for k in range(len(clips))] == ["a.mkv", "c.mkv"]
    assert shades(clips[0]) == [0, 2, 4]
    assert len(VideoFolder([roots / "one"], "val", side=32)) == 1
    assert len(VideoFolder(roots / "one", side=32)) == 1
    batch = clip.collate([clips[0], clips[1]])
    assert batch.frames.shape == (2, 3, 3, 32, 32)
    assert batch.frames.dtype == torch.uint8


def test_random_clips_and_changes_are_those_of_training(roots):
    options = {"clip_len": 2, "random_sample_frame": True, "side": 32}
    train = VideoFolder(roots / "one", "train", **options)
    starts = {shades(train[video_folder.ClipKey(epoch, 0)])[0] for epoch in range(20)}
    assert len(starts) > 2
    assert shades(VideoFolder(roots / "one", "val", **options)[0]) == [0, 1]
    crop = {"aug_type": "random_resized_crop"}
    changed = VideoFolder(roots / "one", train_data_aug=crop, side=32)
    assert changed.augmentation.resized_crop is not None
    assert not changed.augmentation.flip
    assert VideoFolder(roots / "one", "val", train_data_aug=crop, side=32).augmentation is None
    assert VideoFolder(roots / "one", train_data_aug={"aug_type": None}).augmentation is None
    with pytest.raises(TrainingError, match="mixup"):
        VideoFolder(roots / "one", train_data_aug={"aug_type": "mixup"})


@pytest.mark.parametrize("form", ["one", "by split", "a list", "a pattern"])
def test_label_files_of_the_splits(form, roots, tmp_path):
    name = get_relative_video_path(roots / "one" / "train" / "a.mkv")
    labels = {name: {"gazing_pos": [[3], [265 + 7]], "task_losses": [[0.5], [0.25]]}}
    path = tmp_path / "gazing_labels.json"
    path.write_text(json.dumps(labels))
    paths = {
        "one": path,
        "by split": {"train": str(path), "val": None},
        "a list": {"train": [str(path)]},
        "a pattern": str(tmp_path / "gazing_*.json"),
    }[form]
    clips = VideoFolder(roots / "one", clip_len=2, gt_gazing_pos_paths=paths, side=32)
    assert clips[0].labels.ids == ((3,), (7,))
    with pytest.raises(TrainingError):
        VideoFolder(roots / "two", clip_len=2, gt_gazing_pos_paths=paths, side=32)


def test_the_name_in_label_files():
    assert get_relative_video_path("/data/set/train/a.mp4") == "set/train/a.mp4"
    assert get_relative_video_path(Path("/x/y/set/val/b.mp4")) == "set/val/b.mp4"
    assert get_relative_video_path("C:\\data\\set\\train\\a.mp4") == "set/train/a.mp4"
    assert get_relative_video_path("train/a.mp4") == "train/a.mp4"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 1, 100), [0, 1, 2, 3]),
        ((4, 2, 100), [0, 2, 5, 7]),  # of 0, 2.67, 5.33 and 8, which is cut to 7
        ((4, 3, 100), [0, 4, 8, 11]),
        ((3, 0.5, 100), [0, 0, 0]),
        ((4, 2, 8), [0, 1, 2, 3]),  # a video that isn't longer than the span
        ((4, 2, 3), [0, 1, 2, 2]),
        ((1, 5, 9), [0]),
    ],
)
def test_sampled_indices(arguments, expected):
    indices = sample_frame_indices(*arguments)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@pytest.fixture
def numpy_state():
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def test_random_clips_are_moved_ones(numpy_state):
    np.random.seed(0)
    first = sample_frame_indices(4, 2, 12)
    starts = set()
    for _ in range(100):
        indices = sample_frame_indices(4, 2, 12, random_sample_frame=True)
        assert (indices - indices[0] == first).all()
        starts.add(int(indices[0]))
    assert starts == {0, 1, 2, 3}  # the span ends before the last frame, as known


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 200), st.booleans())
def test_sampled_indices_lie_in_the_video(clip_len, rate, seg_len, random):
    state = np.random.get_state()
    indices = sample_frame_indices(clip_len, rate, seg_len, random_sample_frame=random)
    np.random.set_state(state)
    assert indices.shape == (clip_len,)
    assert indices.min() >= 0
    assert indices.max() < seg_len
    assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize("numbers", [(0, 1, 9), (1, 0, 9), (1, 1, 0)])
def test_impossible_numbers(numbers):
    with pytest.raises(VideoError, match="0"):
        sample_frame_indices(*numbers)


@pytest.mark.parametrize(("count", "expected"), [(5, [0, 1, 2]), (3, [0, 1, 2]), (2, [0, 1, 1])])
def test_frames_are_cut_or_repeated(count, expected):
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    assert process_video_frames(frames, 3)[:, 0, 0, 0].tolist() == expected


def test_no_frames_cannot_be_repeated():
    with pytest.raises(VideoError, match="0"):
        process_video_frames(np.zeros((0, 4, 4, 3), np.uint8), 2)


# Clips that are dicts


def item(ids=((1, 2), (270,)), losses=((0.5, 0.25), (0.75,)), **changes):
    labels = {"gazing_pos": list(map(list, ids)), "task_losses": list(map(list, losses))}
    return {"video": torch.ones(2, 3), "name": "a", "gt_gazing_info": labels, **changes}


def test_dicts_are_collated():
    other = item(ids=((3,), (265, 266, 267)), losses=((0.1,), (0.2, 0.3, 0.4)), name="b")
    batch = collate.collate_fn([item(), item(is_valid=False), other])
    assert batch["video"].shape == (2, 2, 3)
    assert batch["name"] == ["a", "b"]
    labels = batch["gt_gazing_info"]
    assert labels["gazing_pos"].tolist() == [
        [1, 2, -1, 270, -1, -1, -1],
        [3, -1, -1, 265, 266, 267, -1],
    ]
    assert labels["task_losses"].tolist() == [
        pytest.approx([0.5, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75]),
        pytest.approx([0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.4]),
    ]
    assert labels["if_padded_gazing"].equal(labels["gazing_pos"] == -1)
    assert labels["num_gazing_each_frame"].tolist() == [3, 4]


def test_labels_are_left_as_they_were():
    given_clip = item()
    assert collate.collate_fn([given_clip])["gt_gazing_info"]["gazing_pos"].tolist() == [
        [1, 2, -1, 270, -1]
    ]
    assert given_clip["gt_gazing_info"]["gazing_pos"] == [[1, 2], [270]]


def test_clips_without_labels_are_collated():
    assert collate.collate_fn([item(gt_gazing_info=[])] * 2)["gt_gazing_info"] == []
    loader = torch.utils.data.DataLoader(
        [item(gt_gazing_info=[])] * 4, 2, collate_fn=collate.collate_fn
    )
    assert [batch["video"].shape for batch in loader] == [(2, 2, 3)] * 2


@pytest.mark.parametrize(
    "clips",
    [
        [item(is_valid=False)],
        [item(), item(gt_gazing_info=[])],
        [item(losses=((0.5,), (0.75,)))],
        [item(), item(ids=((1,),), losses=((0.5,),))],
        [item(ids=((1,), ()), losses=((0.5,), ()))],
    ],
    ids=["none valid", "some unlabelled", "other losses", "other frames", "an empty frame"],
)
def test_dicts_that_make_no_batch(clips):
    with pytest.raises(TrainingError):
        collate.collate_fn(clips)
