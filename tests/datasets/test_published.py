"""Names of datasets that AutoGaze's users import, with the arguments that they give."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autogaze.datasets import VideoFolder, collate, video_folder
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


def shades(clip) -> list[int]:
    return [round(float(value) / 30) for value in clip.frames.float().mean((1, 2, 3))]


def test_the_known_arguments(roots):
    both = f"{roots / 'one'}, {roots / 'two'}"
    clips = VideoFolder(root=both, split="train", clip_len=3, frame_sample_rate=2, side=32)
    assert isinstance(clips, video_folder.VideoFolder)
    assert [clips.name(k).rpartition("/")[2] for k in range(len(clips))] == ["a.mkv", "c.mkv"]
    assert shades(clips[0]) == [0, 2, 4]
    assert len(VideoFolder([roots / "one"], "val", side=32)) == 1
    assert len(VideoFolder(roots / "one", side=32)) == 1
    batch = collate([clips[0], clips[1]])
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


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 200), st.integers(0, 99))
def test_sampled_indices_lie_in_the_video(clip_len, rate, seg_len, seed):
    generator = np.random.default_rng(seed)
    indices = sample_frame_indices(clip_len, rate, seg_len, generator=generator)
    assert indices.shape == (clip_len,)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < seg_len
    if (clip_len - 1) * rate < seg_len:
        assert (np.diff(indices) == rate).all()
    first = sample_frame_indices(clip_len, rate, seg_len, random_sample_frame=False)
    assert first[0] == 0


def test_every_start_is_drawn():
    generator = np.random.default_rng(0)
    starts = {sample_frame_indices(3, 2, 7, generator=generator)[0] for _ in range(100)}
    assert starts == {0, 1, 2}


@pytest.mark.parametrize("numbers", [(0, 1, 9), (1, 0, 9), (1, 1, 0)])
def test_impossible_numbers(numbers):
    with pytest.raises(VideoError, match="0"):
        sample_frame_indices(*numbers)


def test_frames_are_processed():
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    out = process_video_frames(frames)
    assert out.shape == (2, 3, 4, 4)
    assert out[1, 2, 3, 0] == frames[1, 3, 0, 2]
