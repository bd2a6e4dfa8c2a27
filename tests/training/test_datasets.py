"""The `dataset` options: every name gives clips, and what cannot be is refused."""

import json
import subprocess
import sys

import pytest
import torch

from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip, collate
from autogaze.datasets.decoded import save_decoded
from autogaze.datasets.labels import LabelFile
from autogaze.errors import AutoGazeError, TrainingError
from autogaze.geometry import PatchPyramid
from autogaze.labelling.label import with_labels
from autogaze.training.datasets import DATASETS
from autogaze.training.loader import StepSampler, make_loader
from autogaze.training.mixture import DatasetFile, read_dataset
from tests.clips import make_video
from tests.datasets.pictures import make_pictures, some_frames

PYRAMID = PatchPyramid((32, 64), 16)
SHAPE = (2, 3, 64, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos, photographs and decoded clips, in both splits."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 3), ("val", 2)):
        folder = root / "videos" / split
        folder.mkdir(parents=True)
        for number in range(count):
            make_video(folder / f"{number}.mp4", 5)
        make_pictures(root / "photos" / split, count)
        (root / "decoded").mkdir(exist_ok=True)
        clips = [TrainingClip(some_frames(2, 64, seed=n), f"{split} {n}") for n in range(count)]
        save_decoded(clips, root / "decoded" / f"{split}-0.safetensors")
    return root


def options_of(name, data, **more):
    """Options that give clips."""
    places = {"video_folder": "videos", "decoded": "decoded", "camera": "photos"}
    places["composed"] = "photos"
    options = {"name": name, **more}
    if name in places:
        options["root"] = str(data / places[name])
    else:
        options["num_clips"] = 6
    return options


def mixture_of(data, **more):
    """A mixture of everything."""
    kinds = ("video_folder", "decoded", "camera", "composed", "procedural")
    parts = {f"my {kind}": {**options_of(kind, data), "weight": 1} for kind in kinds}
    parts["my video_folder"]["weight"] = 4
    return {"name": "mixture", "clip_len": 2, "num_clips": 40, "parts": parts, **more}


def source_of(name, data, **more):
    if name == "mixture":
        return read_dataset(mixture_of(data, **more))
    return read_dataset(options_of(name, data, clip_len=2, **more))


every_source = pytest.mark.parametrize("name", [*DATASETS, "mixture"])


def frames_of(clips, epoch=0, count=10):
    return [clips[ClipKey(epoch, number)].frames for number in range(min(count, len(clips)))]


@every_source
def test_a_step_of_clips_comes_out(name, data):
    clips = source_of(name, data).clips("train", PYRAMID, 0)
    sampler = StepSampler(len(clips), 8, 4, 0, first=0, last=1)
    batches = list(make_loader(clips, sampler, 0))
    assert [len(batch) for batch in batches] == [4, 4]
    for batch in batches:
        assert batch.frames.shape == (4, *SHAPE)
        assert batch.labels is None


@every_source
def test_order_and_clips_are_the_same_after_a_restart(name, data):
    def last_step():
        clips = source_of(name, data).clips("train", PYRAMID, 0)
        sampler = StepSampler(len(clips), 6, 6, 0, first=3, last=4)
        (batch,) = make_loader(clips, sampler, 0)
        return batch

    first, again = last_step(), last_step()
    assert first.names == again.names
    assert torch.equal(first.frames, again.frames)


@every_source
def test_validation_clips_are_fixed_and_others_than_those_for_training(name, data):
    source = source_of(name, data)
    assert source.has_split("val")
    train, val = (source.clips(split, PYRAMID, 0) for split in ("train", "val"))
    held = frames_of(val)
    for epoch in (0, 1):
        if name == "mixture":  # asked for in epoch 0 only
            break
        for some, same in zip(held, frames_of(val, epoch), strict=True):
            assert torch.equal(some, same)
    again = source_of(name, data).clips("val", PYRAMID, 0)
    assert all(torch.equal(a, b) for a, b in zip(held, frames_of(again), strict=True))
    names = [
        {clips[ClipKey(epoch, number)].name for epoch in range(2) for number in range(len(clips))}
        for clips in (train, val)
    ]
    assert names[0].isdisjoint(names[1])


@every_source
def test_labels_can_be_made_on_the_way(name, data):
    source = source_of(name, data, greedy_labels={"high": 0.4})
    assert source.labelled()
    assert not source_of(name, data).labelled()
    clips = source.clips("train", PYRAMID, 0)
    for number in range(6 if name == "mixture" else 2):
        [labels] = with_labels(collate([clips[ClipKey(0, number)]])).labels
        assert len(labels.ids) == 2


def parts_in(clips, numbers):
    """How many of a mixture's clips come from which of its parts."""
    found = [clips.locate(ClipKey(0, number))[0] for number in numbers]
    return [found.count(which) for which in range(5)]


def test_a_mixture_has_its_shares(data):
    source = source_of("mixture", data)
    clips = source.clips("train", PYRAMID, 0)
    assert len(clips) == 40
    assert parts_in(clips, range(40)) == [20, 5, 5, 5, 5]
    assert parts_in(clips, range(16)) == [8, 2, 2, 2, 2]
    val = source.clips("val", PYRAMID, 0)
    assert parts_in(val, range(8)) == [4, 1, 1, 1, 1]
    numbers = [number for number in range(40) if clips.locate(ClipKey(0, number))[0] == 0]
    names = {clips[ClipKey(0, number)].name for number in numbers}
    assert names == {f"videos/train/{number}.mp4" for number in range(3)}


def test_parts_may_be_left_out_or_have_no_validation_clips(data, tmp_path):
    (tmp_path / "train").mkdir()
    make_video(tmp_path / "train" / "only.mp4", 3)
    parts = {
        "mine": {"root": str(tmp_path)},  # a video folder, of weight 1
        "none": {"root": "/nowhere", "weight": 0},
        "drawn": {"name": "procedural", "num_clips": 3},
    }
    source = read_dataset({"name": "mixture", "clip_len": 2, "parts": parts})
    assert len(source.clips("train", PYRAMID, 0)) == 4
    assert len(source.clips("val", PYRAMID, 0)) == 3


def test_unreadable_clips_of_a_mixture_are_counted(data, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "bad.mp4").write_bytes(b"nothing")
    parts = {"bad": {"root": str(tmp_path)}, "good": {"name": "procedural", "num_clips": 1}}
    source = read_dataset({"name": "mixture", "clip_len": 2, "parts": parts})
    clips = source.clips("train", PYRAMID, 0)
    (batch,) = make_loader(clips, StepSampler(len(clips), 4, 4, 0, first=0, last=1), 0)
    assert len(batch) == 2
    assert [type(clip) for clip in batch.unreadable] == [UnreadableClip] * 2
    assert all("bad.mp4" in clip.cause for clip in batch.unreadable)


def label_file(path, names, num_frames=2):
    entry = {"gazing_pos": [[1 + 20 * frame] for frame in range(num_frames)]}
    path.write_text(json.dumps(dict.fromkeys(names, entry)))
    return str(path)


def test_parts_of_a_mixture_have_labels_of_their_own(data, tmp_path):
    labels = label_file(tmp_path / "labels.json", ["videos/train/1.mp4", "videos/train/1.mp4#2"])
    options = mixture_of(data)
    options["parts"]["my video_folder"]["gt_gazing_pos_paths"] = {"train": labels}
    assert not read_dataset(options).labelled()
    source = read_dataset({**options, "greedy_labels": {}})
    assert source.labelled()
    clips = source.clips("train", PYRAMID, 0)
    for number in range(10):
        clip = clips[ClipKey(0, number)]
        is_video = clips.locate(ClipKey(0, number))[0] == 0
        assert clip.name.startswith("videos/train/1.mp4") == is_video
        [labels] = with_labels(collate([clip])).labels
        assert (labels.losses == ()) == is_video  # the file has none, the search always


@pytest.mark.parametrize("name", ["video_folder", "decoded", "camera", "composed", "procedural"])
def test_labels_made_ahead_belong_to_their_clips(name, data, tmp_path):
    (member,) = source_of(name, data).members()
    clips = member.to_label("train", PYRAMID, 5)
    chosen = [0, 2]
    path = label_file(tmp_path / "labels.json", [clips.name(number) for number in chosen])
    source = source_of(name, data, gt_gazing_pos_paths={"train": path}, seed=5)
    found = source.clips("train", PYRAMID, 0)
    assert len(found) == 2
    for place, number in enumerate(chosen):
        clip = found[ClipKey(4, place)]
        assert clip.labels == LabelFile.load(path, 20)[clip.name]
        assert torch.equal(clip.frames, clips[ClipKey(0, number)].frames)


def test_a_seed_of_its_own_pins_what_is_drawn(data):
    pinned = [source_of("camera", data, seed=1).clips("train", PYRAMID, s)[0] for s in (0, 2)]
    assert torch.equal(pinned[0].frames, pinned[1].frames)
    free = [source_of("camera", data).clips("train", PYRAMID, s)[0] for s in (0, 2)]
    assert not torch.equal(free[0].frames, free[1].frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mixtrue"}, "did you mean mixture"),
        ({"name": "mixture"}, "names no dataset"),
        ({"name": "mixture", "parts": {"a": {"weight": 0}}}, "names no dataset"),
        ({"name": "mixture", "parts": {"a": 3}}, r"parts\.a .*group.*\b3$"),
        ({"name": "mixture", "parts": {"a": {"wieght": 1}}}, r"parts\.a\.wieght.*root"),
        ({"name": "mixture", "parts": {"a": {"weight": -1}}}, r"a\.weight .* got -1"),
        ({"name": "mixture", "parts": {"a": {"weight": "x"}}}, r"a\.weight .* got 'x'"),
        ({"name": "mixture", "parts": {"a": {"name": "mixture"}}}, r"parts\.a\.name 'mixture'"),
        ({"name": "mixture", "parts": {"a": {"clip_len": 3}}}, r"parts\.a\b.*dataset\.clip_len=2"),
        ({"name": "mixture", "num_clips": 0, "parts": {"a": {}}}, r"\bnum_clips .*\b1\b"),
        (
            {"name": "mixture", "parts": {"a": {"root": "/no"}}},
            r"parts\.a\b.*root: .*/no\b",
        ),
        ({"name": "composed"}, "dataset.root names no folder"),
        ({"name": "composed", "root": ".", "composition": {"cutouts": 2}}, "max_cutouts"),
        ({"name": "composed", "root": ".", "composition": {"camera": {"pan": 1}}}, "max_pan"),
        (
            {"name": "composed", "root": ".", "composition": {"camera": {"clip_len": 3}}},
            r"composition\.camera\.clip_len follows from dataset\.clip_len",
        ),
        ({"name": "camera", "root": ".", "camera": {"side": 3}}, r"side follows from model\.scal"),
        ({"name": "procedural", "scene": {"max_shapes": 0}}, r"\bmax_shapes .*\b1\b.*\b0\b"),
        ({"name": "procedural", "num_clips": 0}, r"\bnum_clips\b.*\b0$"),
        ({"name": "video_folder", "decoder": "ffmpeg"}, "auto, opencv, pyav, torchcodec"),
        ({"name": "video_folder", "windows": "every"}, "all, first"),
        ({"name": "video_folder", "root": ".", "stride": 0}, r"\bstride .*\b1\b.*\b0$"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(AutoGazeError, match=message):
        read_dataset({"clip_len": 2, **options}).clips("train", PYRAMID, 0)


def test_decoded_clips_of_another_shape_are_refused(data):
    for clip_len, pyramid in ((3, PYRAMID), (2, PatchPyramid((32,), 16))):
        source = read_dataset(options_of("decoded", data, clip_len=clip_len))
        wanted = rf"\b2 frames of 64 .*\b{clip_len} of {pyramid.scales[-1]}\b"
        with pytest.raises(TrainingError, match=wanted):
            source.clips("train", pyramid, 0)


@pytest.mark.parametrize("change", [{"random_sample_frame": True}, {"augmentation": {}}])
def test_clips_that_change_cannot_be_labelled_ahead(change, data):
    (member,) = source_of("video_folder", data, **change).members()
    with pytest.raises(TrainingError, match="gaze labels belong to"):
        member.to_label("train", PYRAMID, 0)


@pytest.mark.slow
def test_clips_of_a_dataset_need_neither_hydra_nor_accelerate():
    """As `autogaze label --dataset` and `autogaze calibrate` read them in a base installation."""
    script = """
import sys
sys.modules["hydra"] = sys.modules["accelerate"] = None
import autogaze.training.calibration, autogaze.training.checkpoints
from autogaze.geometry import PatchPyramid
from autogaze.training.mixture import read_dataset
source = read_dataset({"name": "procedural", "num_clips": 3, "scene": {"max_shapes": 2}})
print(len(source.clips("train", PatchPyramid(), 0)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


def test_options_from_files(data, tmp_path):
    path = tmp_path / "dataset.yaml"
    path.write_text(f"name: camera\nroot: {data / 'photos'}\nclip_len: 2\nmax_unreadable: 1e-1\n")
    source, options, seed = DatasetFile.load(path)
    assert (source.clip_len, source.max_unreadable, options["name"], seed) == (
        2,
        0.1,
        "camera",
        None,
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dataset": mixture_of(data), "trainer": {"seed": 3}}))
    source, _, seed = DatasetFile.load(path)
    assert len(source.members()) == 5
    assert seed == 3
    for content, message in (
        ("[1", r"config\.json: .*\bYAML\b.*\bJSON\b"),
        ("3", r"config\.json: .*\boptions\b.*\b3$"),
        ("name: webcam", r"config\.json: unknown dataset\.name 'webcam'"),
    ):
        path.write_text(content)
        with pytest.raises(TrainingError, match=message):
            DatasetFile.load(path)
    with pytest.raises(TrainingError, match="cannot be read"):
        DatasetFile.load(tmp_path / "none.yaml")
