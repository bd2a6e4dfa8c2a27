"""Names of datasets that AutoGaze's users import, with the arguments that they give."""

import json
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import VivitImageProcessor

from autogaze.datasets import VideoFolder, collate
from autogaze.datasets.video_utils import (
    get_relative_video_path,
    process_video_frames,
    sample_frame_indices,
)
from autogaze.errors import TrainingError, VideoError
from autogaze.models.autogaze import AutoGazeImageProcessor


def write(path, shades):
    """A video of frames of one shade each, 32 high and 48 wide, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        for shade in shades:
            pixels = np.full((32, 48, 3), shade, dtype=np.uint8)
            pixels[:, :24] += 5
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two roots with videos of 8 frames; frame k is k * 30 bright."""
    folder = tmp_path_factory.mktemp("roots")
    for name in ("one/train/b.mp4", "one/train/a.mp4", "one/val/c.mp4", "two/train/d.mp4"):
        write(folder / name, range(0, 240, 30))
    write(folder / "one/train/deeper/e.mp4", [0])
    write(folder / "one/train/other.mkv", range(0, 240, 30))
    return folder


PROCESSOR = AutoGazeImageProcessor(size={"height": 16, "width": 16})
TASK_PROCESSOR = VivitImageProcessor(size={"height": 24, "width": 24}, do_center_crop=False)
CROP = {"aug_type": "random_resized_crop", "random_resized_crop": {"scale_min": 0.1}}


def shades(video) -> list[int]:
    """The shades of a clip of raw pixels, in steps of 30."""
    return [round((float(value) - 5) / 30) for value in video[:, 0, 0, 0]]


def test_the_known_arguments_by_position(roots):
    clips = VideoFolder(
        str(roots / "one"), "train", {"train": None}, False, None, PROCESSOR, TASK_PROCESSOR, 3, 2,
        ".mp4",
    )  # fmt: skip
    assert len(clips) == 2
    item = clips[1]
    assert list(item) == ["video", "video_for_task", "is_valid", "video_path", "gt_gazing_info"]
    assert item["video"].shape == (3, 3, 16, 16)
    assert item["video_for_task"].shape == (3, 3, 24, 24)
    assert item["is_valid"] is True
    assert item["video_path"] == str(roots / "one" / "train" / "b.mp4")
    assert item["gt_gazing_info"] == []
    # Frames 0, 3 and 5 are 0, 90 and 150 bright, the left half 5 more.
    shade = torch.tensor([5.0, 95, 155]) / 127.5 - 1
    mean, std = PROCESSOR.image_mean[0], PROCESSOR.image_std[0]
    torch.testing.assert_close(item["video"][:, 0, 8, 2], (shade - mean) / std)
    mean, std = TASK_PROCESSOR.image_mean[0], TASK_PROCESSOR.image_std[0]
    torch.testing.assert_close(item["video_for_task"][:, 0, 8, 2], (shade - mean) / std)


def test_what_may_be_left_out(roots):
    both = f"{roots / 'two'}, {roots / 'one'}"
    clips = VideoFolder(root=both, split="train", gt_gazing_pos_paths=None, clip_len=3)
    assert [Path(clip["video_path"]).name for clip in clips] == ["d.mp4", "a.mp4", "b.mp4"]
    assert clips[0]["video"].dtype == torch.uint8
    assert clips[0]["video"].shape == (3, 3, 32, 48)
    assert shades(clips[0]["video"]) == [0, 1, 2]
    assert len(VideoFolder([roots / "one"], "val")) == 1
    assert shades(VideoFolder(roots / "one", "val")[0]["video"]) == [*range(8), *[7] * 56]
    assert len(VideoFolder(roots / "one", video_ext=(".mkv", ".mp4"))) == 3
    assert clips.check_dataset_is_not_random()


def test_items_become_batches(roots):
    clips = VideoFolder(roots / "one", gaze_transform=PROCESSOR, clip_len=2)
    loader = torch.utils.data.DataLoader(clips, 2, collate_fn=collate.collate_fn, num_workers=1)
    (batch,) = loader
    assert batch["video"].shape == (2, 2, 3, 16, 16)
    assert batch["video_for_task"].shape == (2, 2, 3, 32, 48)
    assert [Path(path).name for path in batch["video_path"]] == ["a.mp4", "b.mp4"]
    assert batch["is_valid"].all()
    assert batch["gt_gazing_info"] == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_random_clips(split, roots, numpy_state):
    np.random.seed(0)
    clips = VideoFolder(roots / "one", split, random_sample_frame=True, clip_len=2)
    starts = set()
    for _ in range(30):
        first, second = shades(clips[0]["video"])
        assert second == first + 1
        starts.add(first)
    assert len(starts) > 2
    assert not clips.check_dataset_is_not_random()


@pytest.mark.parametrize(
    "aug",
    [
        CROP,
        OmegaConf.create(CROP),
        SimpleNamespace(
            aug_type="random_resized_crop", random_resized_crop=SimpleNamespace(scale_min=0.1)
        ),
    ],
    ids=["dict", "OmegaConf", "attributes"],
)
def test_random_crops_are_the_same_in_both_videos(aug, roots):
    square = VivitImageProcessor(size={"shortest_edge": 24}, do_center_crop=False)
    options = {"train_data_aug": aug, "gaze_transform": square, "clip_len": 2}
    clips = VideoFolder(roots / "one", task_transform=square, **options)
    torch.manual_seed(0)
    drawn = [clips[0] for _ in range(8)]
    for item in drawn:
        assert item["video"].shape == (2, 3, 24, 24)
        assert item["video"].equal(item["video_for_task"])
        # One crop for all frames: they differ by their shade alone.
        assert (item["video"][1] - item["video"][0]).std((1, 2)).max() < 1e-3
    assert len({float(item["video"].mean()) for item in drawn}) > 4
    torch.manual_seed(0)
    assert clips[0]["video"].equal(drawn[0]["video"])
    whole = VideoFolder(roots / "one", "val", task_transform=square, **options)
    assert whole[0]["video"].shape == (2, 3, 24, 36)


LABELS = {"gazing_pos": [[3], [265 + 7]], "task_losses": [[0.5], [0.25]]}


@pytest.mark.parametrize("form", ["one", "by split", "a list", "a pattern", "commas"])
def test_label_files_of_the_splits(form, roots, tmp_path):
    path, other = tmp_path / "gazing_labels.json", tmp_path / "other.json"
    path.write_text(json.dumps({f"/elsewhere{roots}/one/train/b.mp4": LABELS}))
    other.write_text(json.dumps({"x/y/z.mp4": LABELS}))
    paths = {
        "one": path,
        "by split": {"train": str(path), "val": None},
        "a list": {"train": [str(path)]},
        "a pattern": str(tmp_path / "gazing_*.json"),
        "commas": {"train": f"{other}, {path}"},
    }[form]
    clips = VideoFolder(roots / "one", "train", paths, clip_len=2)
    assert len(clips) == 1
    item = clips[0]
    assert item["video_path"].endswith("b.mp4")
    assert item["gt_gazing_info"] == LABELS
    item["gt_gazing_info"]["gazing_pos"][0].append(-1)
    assert clips[0]["gt_gazing_info"] == LABELS
    batch = collate.collate_fn([clips[0]])
    assert batch["gt_gazing_info"]["gazing_pos"].tolist() == [[3, -1, 272, -1]]
    with pytest.raises(TrainingError):
        VideoFolder(roots / "two", "train", paths, clip_len=2)


def test_labels_need_fixed_clips_and_names_of_one_video(roots, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"one/train/a.mp4": LABELS}))
    for options in ({"random_sample_frame": True}, {"train_data_aug": CROP}):
        with pytest.raises(TrainingError):
            VideoFolder(roots / "one", "train", path, gaze_transform=PROCESSOR, **options)
    write(tmp_path / "one" / "train" / "a.mp4", [0, 30])
    with pytest.raises(TrainingError, match=r"a\.mp4"):
        VideoFolder([roots / "one", tmp_path / "one"], "train", path)
    path.write_text(json.dumps({"one/train/a.mp4": {"gazing_pos": 3}}))
    with pytest.raises(TrainingError, match="gazing_pos"):
        VideoFolder(roots / "one", "train", path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_videos_are_left_out_of_batches(damage, tmp_path, caplog):
    folder = tmp_path / "train"
    write(folder / "a.mp4", range(0, 240, 30))
    whole = (folder / "a.mp4").read_bytes()
    bad = {"empty": b"", "text": b"no video", "cut": whole[: len(whole) // 2]}[damage]
    (folder / "bad.mp4").write_bytes(bad)
    clips = VideoFolder(tmp_path, clip_len=8)
    with caplog.at_level("WARNING"):
        item = clips[1]
    assert "bad.mp4" in caplog.text
    assert item["is_valid"] is False
    assert item["video_path"] == str(folder / "bad.mp4")
    assert item["video"].numel() == item["video_for_task"].numel() == 0
    batch = collate.collate_fn([item, clips[0]])
    assert batch["video_path"] == [str(folder / "a.mp4")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split": "test"}, "test"),
        ({"root": "nowhere"}, "nowhere"),
        ({"video_ext": ".avi"}, "avi"),
        ({"clip_len": 0}, "0"),
        ({"frame_sample_rate": 0}, "0"),
        ({"train_data_aug": {"aug_type": "mixup"}}, "mixup"),
        ({"train_data_aug": CROP}, "size"),
        ({"train_data_aug": {**CROP, "random_resized_crop": {"scale": 1}}}, "scale"),
        ({"train_data_aug": {**CROP, "random_resized_crop": {"scale_min": 0}}}, "0"),
    ],
)
def test_arguments_that_make_no_dataset(changes, named, roots):
    with pytest.raises(TrainingError, match=named):
        VideoFolder(**{"root": roots / "one", "split": "train", **changes})


def test_crops_of_videos_of_two_sizes(roots):
    clips = VideoFolder(
        roots / "one", train_data_aug=CROP, gaze_transform=PROCESSOR, task_transform=TASK_PROCESSOR
    )
    with pytest.raises(TrainingError, match="16"):
        clips[0]


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
